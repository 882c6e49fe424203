import errno
import json
import multiprocessing
import os
import resource
import signal
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from latentdebias.autoencoders import load_autoencoder
from latentdebias.errors import UserError
from latentdebias.images.find import SourceImage, find_images
from latentdebias.images.preprocess import centre_crop, decode_image
from latentdebias.shards.format import read_manifest
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.reader import LatentShards


def wds_samples(directory):
    paths = sorted(str(path) for path in directory.glob("*.tar"))
    return list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode())


def test_plain_webdataset_reads_the_moments_of_each_image_and_its_mirror(encode, encoder, image_dir):
    samples = wds_samples(encode())
    found = find_images(str(image_dir))
    assert len(samples) == len(found.images) == 21
    for number, (sample, source) in enumerate(zip(samples, found.images, strict=True)):
        crop = centre_crop(decode_image(source.read()), 32)
        pixels = torch.from_numpy(np.stack([crop, crop[:, ::-1]])).permute(0, 3, 1, 2).float() / 127.5 - 1
        latent, flip = encoder.encode(pixels).numpy().astype(np.float16)
        assert np.array_equal(sample["latent.npy"], latent)
        assert np.array_equal(sample["flip.npy"], flip)
        assert sample["latent.npy"].dtype == np.float16
        assert sample["cls"] == source.label
        assert sample["json"] == {"source": source.name, "original_size": list(Image.open(source.path).size)}
        assert sample["__key__"] == f"{number:09d}"


def test_manifest_says_what_was_made(encode, encoder):
    manifest = read_manifest(encode())
    assert (manifest.count, manifest.resolution, manifest.latent_shape) == (21, 32, (4, 4, 4))
    assert (manifest.num_classes, manifest.class_names) == (3, ["cat", "dog", "emu"])
    assert [shard.count for shard in manifest.shards] == [5, 5, 5, 5, 1]
    assert manifest.autoencoder == {"id": "pool", "channels": 4, "factor": 8}
    assert (manifest.flips, manifest.dtype, manifest.precision) == (True, "float16", "float32")
    assert manifest.rejected == []


def test_statistics_equal_those_computed_from_the_stored_views(encode):
    directory = encode()
    samples = wds_samples(directory)
    moments = np.stack([sample[view] for sample in samples for view in ("latent.npy", "flip.npy")]).astype(np.float64)
    mean, logvar = np.split(moments, 2, axis=1)
    manifest = read_manifest(directory)
    np.testing.assert_allclose(manifest.latent_mean, mean.mean(axis=(0, 2, 3)), rtol=1e-12, atol=1e-14)
    variance = mean.var(axis=(0, 2, 3)) + np.exp(logvar).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(manifest.latent_std, np.sqrt(variance), rtol=1e-12)


def test_every_forward_sees_a_full_batch(encode, encoder):
    encode(forward_batch=4)
    assert set(encoder.batch_sizes) == {4}


def test_bytes_do_not_depend_on_workers_ranks_or_batch_size(encode, contents):
    expected = contents(encode("one"))
    assert contents(encode("workers", workers=2)) == expected
    assert contents(encode("batch", batch_size=3)) == expected
    for rank in (2, 0, 1):
        directory = encode("ranks", rank=rank, world_size=3)
    assert contents(directory) == expected


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 64}, {"workers": 2}, {"threads": 2}]
)
def test_a_real_autoencoder_gives_the_same_bytes_for_any_batch_size(tiny_vae_dir, image_dir, tmp_path, changes):
    """With a rejected image in the middle, which must not move its neighbours to other places in the forward."""
    (image_dir / "dog" / "03.png").write_bytes(b"no image")
    made = []
    for name, options in {"reference": {"batch_size": 32}, "changed": changes}.items():
        threads = options.get("threads", 1)
        torch.set_num_threads(threads)
        encode_images(
            find_images(str(image_dir)),
            load_autoencoder(str(tiny_vae_dir)),
            tmp_path / name,
            EncodeJob(
                resolution=32,
                samples_per_shard=18,
                max_reject_share=0.1,
                workers=options.get("workers", 0),
                batch_size=options.get("batch_size", 32),
            ),
        )
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    torch.set_num_threads(1)
    assert made[0] == made[1]


@pytest.mark.parametrize(("precision", "recorded"), [("fp32", "float32"), ("tf32", "tf32")])
def test_the_precision_of_the_encoder_is_used_and_recorded(encode, encoder, monkeypatch, precision, recorded):
    seen, forward = set(), encoder.encode

    def encode_images(images):
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return forward(images)

    monkeypatch.setattr(encoder, "encode", encode_images)
    assert read_manifest(encode(precision=precision)).precision == recorded
    assert seen == {(precision == "tf32", precision == "tf32")}
    with pytest.raises(UserError, match=f"precision was '{recorded}' and is now"):
        encode(precision="fp32" if precision == "tf32" else "tf32")


def test_the_forward_batch_belongs_to_the_set(encode):
    encode()
    with pytest.raises(UserError, match="forward_batch was 4 and is now 8"):
        encode(forward_batch=8)


def test_only_the_last_rank_to_finish_writes_the_manifest(encode):
    directory = encode(rank=1, world_size=2)
    assert not (directory / "manifest.json").exists()
    assert {path.name for path in directory.glob("*.tar")} == {"shard-000001.tar", "shard-000003.tar"}
    encode(rank=0, world_size=2)
    assert read_manifest(directory).count == 21


def test_more_ranks_than_shards_is_fine(encode):
    for rank in range(7):
        directory = encode(rank=rank, world_size=7)
    assert read_manifest(directory).count == 21


CHILD_OPTIONS = {
    "resolution": 32,
    "samples_per_shard": 5,
    "batch_size": 4,
    "forward_batch": 4,
    "workers": 0,
    "flips": True,
}


def encode_and_die(image_dir, encoder, directory, renames):
    """In a child process: kill -9 itself in place of rename number `renames`."""
    real, done = os.replace, []

    def replace(source, target):
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        real(source, target)

    os.replace = replace
    torch.set_num_threads(1)
    encode_images(find_images(str(image_dir)), encoder, directory, EncodeJob(**CHILD_OPTIONS))


@pytest.mark.parametrize("renames", range(17))
def test_killed_at_any_rename_then_rerun_gives_the_same_bytes(encode, encoder, contents, image_dir, tmp_path, renames):
    """Renames: the plan, then tar, index and summary of five shards, then the manifest."""
    process = multiprocessing.get_context("fork").Process(
        target=encode_and_die, args=(image_dir, encoder, tmp_path / "killed", renames)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    left = contents(encode("killed"))
    complete = {name: data for name, data in left.items() if not name.endswith(".tmp")}
    assert complete == contents(encode("whole"))
    assert not [name for name in left if name.startswith("shard") and name.endswith(".tmp")]


@pytest.mark.parametrize("renames", [1, 4])
def test_a_job_that_is_started_twice_gives_the_same_bytes(encode, contents, monkeypatch, renames):
    """The second process does the whole job while the first is about to rename a tar."""
    real, done = os.replace, []

    def second_job():
        monkeypatch.undo()
        encode("twice")

    def replace(source, target):
        if len(done) == renames:
            second = multiprocessing.get_context("fork").Process(target=second_job)
            second.start()
            second.join()
            assert second.exitcode == 0
        done.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    twice = contents(encode("twice"))
    monkeypatch.undo()
    assert twice == contents(encode("once"))


def test_a_rerun_encodes_only_what_is_missing(encode, contents, encoder):
    directory = encode()
    expected = contents(directory)
    (directory / "shard-000002.tar").unlink()
    os.truncate(directory / "shard-000004.tar", 1000)
    encoder.batch_sizes.clear()
    encode()
    assert contents(directory) == expected
    assert len(encoder.batch_sizes) == 2 * (2 + 1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resolution": 64}, "resolution"),
        ({"flips": False}, "flips"),
        ({"samples_per_shard": 6}, "samples_per_shard"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(encode, contents, changes, field):
    before = contents(encode())
    with pytest.raises(UserError, match=field):
        encode(**changes)
    assert contents(encode()) == before


def test_another_autoencoder_in_the_same_folder_is_refused(encode, make_encoder):
    encode()
    with pytest.raises(UserError, match=r"autoencoder was .*'pool'.* and is now .*'other'"):
        encode(encoder=make_encoder("other"))


def test_other_inputs_in_the_same_folder_are_refused(encode, image_dir):
    encode()
    (image_dir / "cat" / "00.png").rename(image_dir / "cat" / "new.png")
    with pytest.raises(UserError, match="inputs_sha256"):
        encode()


def test_undecodable_images_are_named_and_counted(encode, image_dir, encoder):
    (image_dir / "dog" / "03.png").write_bytes(b"no image")
    manifest = read_manifest(encode(max_reject_share=0.05))
    (rejection,) = manifest.rejected
    assert rejection.name == "dog/03.png"
    assert "UnidentifiedImageError" in rejection.reason
    assert manifest.count == 20
    assert [shard.count for shard in manifest.shards] == [5, 5, 4, 5, 1]


def test_a_wrong_label_in_a_tar_is_rejected_by_name(image_dir, encoder, tmp_path):
    with webdataset.TarWriter(str(tmp_path / "images.tar")) as tar:
        for number, label in enumerate([b"0", b"two", b"1"]):
            tar.write({"__key__": str(number), "png": (image_dir / f"cat/0{number}.png").read_bytes(), "cls": label})
    found = find_images(str(tmp_path / "images.tar"))
    manifest = encode_images(
        found, encoder, tmp_path / "out", EncodeJob(resolution=32, workers=0, max_reject_share=0.5)
    )
    assert [rejection.name for rejection in manifest.rejected] == ["images.tar/1.png"]
    assert "'two'" in manifest.rejected[0].reason
    assert LatentShards(tmp_path / "out").read(np.arange(2), np.zeros(2, bool))[1].tolist() == [0, 1]


def test_too_many_rejects_fail_and_publish_no_more(encode, image_dir):
    for name in ["cat/00.png", "dog/03.png"]:
        (image_dir / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"dog/03\.png.*--max-rejects"):
        encode(out="failed", max_reject_share=0.05)


def test_rejects_of_shards_made_before_still_count(encode, image_dir):
    (image_dir / "cat" / "00.png").write_bytes(b"no image")
    encode(max_reject_share=0.05)
    with pytest.raises(UserError, match="--max-rejects"):
        encode(max_reject_share=0.01)


def test_a_shard_of_only_rejects_is_empty(encode, image_dir):
    for number in range(5):
        (image_dir / "cat" / f"0{number}.png").write_bytes(b"no image")
    directory = encode(max_reject_share=0.5)
    assert len(LatentShards(directory)) == 16
    assert len(wds_samples(directory)) == 16


def test_only_rejects_make_no_set(encode, image_dir):
    for path in image_dir.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="All 21 inputs"):
        encode(max_reject_share=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_latent_that_is_not_finite_in_fp16_is_refused_by_name(encode, make_encoder, tmp_path, value):
    class Broken(make_encoder):
        def encode(self, images):
            moments = super().encode(images)
            if len(self.batch_sizes) == 3:
                moments[1, 2, 0, 0] = value
            return moments

    with pytest.raises(UserError, match=r"cat/06\.png is not finite"):
        encode(encoder=Broken(), flips=False, batch_size=4)
    assert {path.name for path in (tmp_path / "shards").iterdir() if path.suffix != ".json"} == {
        "shard-000000.tar",
        "shard-000000.index.npy",
    }
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_a_failed_write_leaves_complete_shards_only(encode, contents, monkeypatch, tmp_path):
    """The 13th sync is that of the second shard's summary."""
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 13:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="No space left"):
        encode("full")
    monkeypatch.undo()
    names = {path.name for path in (tmp_path / "full").iterdir()}
    assert "shard-000000.json" in names
    assert "shard-000001.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert contents(encode("full")) == contents(encode("whole"))


def encode_with_little_space(image_dir, encoder, directory, space):
    """In a child process: no file may grow over `space` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, space))
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="Cannot write"):
        encode_images(find_images(str(image_dir)), encoder, directory, EncodeJob(**CHILD_OPTIONS))


@pytest.mark.parametrize("space", [100, 1000, 9000, 20000])
def test_too_little_space_is_a_users_error_and_leaves_no_half_shard(encoder, image_dir, tmp_path, space):
    directory = tmp_path / "full"
    process = multiprocessing.get_context("fork").Process(
        target=encode_with_little_space, args=(image_dir, encoder, directory, space)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path.name for path in directory.iterdir()} <= {"plan.json"}


def test_unlabelled_images_have_no_class(image_dir, encoder, tmp_path):
    found = find_images(str(image_dir / "cat"))
    manifest = encode_images(found, encoder, tmp_path / "out", EncodeJob(resolution=32, workers=0))
    assert manifest.num_classes == 0
    assert "cls" not in wds_samples(tmp_path / "out")[0]
    assert LatentShards(tmp_path / "out").read(np.array([0]), np.array([False]))[1].tolist() == [-1]


def test_a_resolution_between_latents_is_refused(encode):
    with pytest.raises(UserError, match="24 or 32"):
        encode(resolution=30)


def test_archive_is_plain_ustar_without_times_or_owners(encode):
    with tarfile.open(encode() / "shard-000000.tar", "r:") as tar:
        members = tar.getmembers()
        assert tar.pax_headers == {}
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o444)}


def test_summary_records_the_sums_of_its_shard(encode):
    summary = json.loads((encode() / "shard-000004.json").read_text())
    assert summary["count"] == 1
    assert summary["sums"]["values"] == 2 * 16


def test_a_fault_of_the_storage_ends_the_job_and_rejects_nothing(encode, monkeypatch):
    def broken(self):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(SourceImage, "read", broken)
    with pytest.raises(UserError, match="fault of the storage"):
        encode(max_reject_share=1.0)

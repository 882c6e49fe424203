import dataclasses
import errno
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import webdataset

from latentdebias.errors import UserError
from latentdebias.shards.format import MANIFEST, read_manifest
from latentdebias.shards.jobs import merge as merge_module
from latentdebias.shards.jobs.merge import merge
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.reader import LatentShards


def all_of(directory, flipped=False):
    shards = LatentShards(directory)
    return shards.read(np.arange(len(shards)), np.full(len(shards), flipped))


@pytest.fixture
def parts(encode):
    """Two sets of 5 and 3 shards over the same images."""
    return [encode("a"), encode("b", samples_per_shard=8)]


@pytest.mark.parametrize("flipped", [False, True])
def test_the_merged_set_reads_as_its_parts_in_a_row(parts, tmp_path, flipped):
    merge(tmp_path / "merged", parts)
    assert verify(tmp_path / "merged").count == 42
    for merged, *own in zip(
        all_of(tmp_path / "merged", flipped), *(all_of(part, flipped) for part in parts), strict=True
    ):
        assert np.array_equal(merged, np.concatenate(own))


def test_plain_webdataset_reads_it_although_keys_recur(parts, tmp_path):
    merge(tmp_path / "merged", parts)
    tars = sorted(map(str, (tmp_path / "merged").glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
    moments, labels = all_of(tmp_path / "merged")
    assert [int(sample["cls"]) for sample in samples] == labels.tolist()
    assert np.array_equal(np.stack([sample["latent.npy"] for sample in samples]), moments)
    assert len({sample["__key__"].rpartition("/")[2] for sample in samples}) == 21


def test_sets_of_one_sample_with_one_key_stay_two_samples(encode, image_dir, tmp_path):
    for path in sorted(image_dir.rglob("*.png"))[1:]:
        path.unlink()
    for folder in ("dog", "emu"):
        (image_dir / folder).rmdir()
    merge(tmp_path / "merged", [encode("a"), encode("b")])
    tars = sorted(map(str, (tmp_path / "merged").glob("*.tar")))
    assert len(list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))) == 2


def test_statistics_are_those_of_all_samples(parts, encode, image_dir, tmp_path):
    (image_dir / "cat" / "00.png").unlink()
    parts.append(encode("c"))
    merged = merge(tmp_path / "merged", parts)
    moments = np.concatenate([all_of(part, flipped)[0] for part in parts for flipped in (False, True)]).astype(float)
    mean, logvar = np.split(moments, 2, axis=1)
    expected = mean.mean((0, 2, 3))
    assert np.allclose(merged.latent_mean, expected, rtol=1e-9)
    variance = (mean**2 + np.exp(logvar)).mean((0, 2, 3)) - expected**2
    assert np.allclose(merged.latent_std, np.sqrt(variance), rtol=1e-9)


def test_inputs_stay_as_they_were(parts, tmp_path, contents):
    before = [contents(part) for part in parts]
    merge(tmp_path / "merged", parts)
    assert [contents(part) for part in parts] == before


def test_where_no_link_can_be_made_files_are_copied(parts, tmp_path, contents, monkeypatch):
    merge(tmp_path / "linked", parts)

    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merge(tmp_path / "copied", parts)
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")
    assert (tmp_path / "copied" / "shard-000000.tar").stat().st_nlink == 1


def test_rejected_inputs_are_all_listed(encode, image_dir, tmp_path):
    (image_dir / "cat" / "00.png").write_bytes(b"no image")
    directories = [encode("a", max_reject_share=0.2), encode("b", max_reject_share=0.2)]
    merged = merge(tmp_path / "merged", directories)
    assert [rejection.name for rejection in merged.rejected] == ["cat/00.png"] * 2
    assert (merged.count, merged.num_inputs) == (40, 42)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flips": False}, "flips is True and False"),
        ({"resolution": 40}, r"latent_shape is \(4, 4, 4\) and \(4, 5, 5\); resolution is 32 and 40"),
    ],
)
def test_other_settings_are_refused_field_by_field(encode, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        merge(tmp_path / "merged", [encode("a"), encode("b", **changes)])
    assert not (tmp_path / "merged").exists()


def rewrite(directory, **changes):
    path = directory / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_other_classes_are_refused(parts, tmp_path):
    rewrite(parts[1], class_names=["cat", "dog", "fox"])
    with pytest.raises(UserError, match=r"class_names is \['cat', 'dog', 'emu'\] and \['cat', 'dog', 'fox'\]"):
        merge(tmp_path / "merged", parts)


def test_an_autoencoder_is_known_by_its_weights_and_not_its_id(encode, make_encoder, tmp_path):
    other = make_encoder("elsewhere/pool")
    assert merge(tmp_path / "merged", [encode("a"), encode("b", encoder=other)]).autoencoder["id"] == "pool"
    rewrite(tmp_path / "b", autoencoder={"id": "pool", "channels": 4, "factor": 16})
    with pytest.raises(UserError, match=r"autoencoder\.factor is 8 and 16"):
        merge(tmp_path / "again", [tmp_path / "a", tmp_path / "b"])


def test_an_unfinished_input_is_refused(parts, tmp_path):
    (parts[1] / MANIFEST).unlink()
    with pytest.raises(UserError, match="is not finished"):
        merge(tmp_path / "merged", parts)
    assert not (tmp_path / "merged").exists()


def test_a_missing_summary_is_refused(parts, tmp_path):
    (parts[1] / "shard-000001.json").unlink()
    with pytest.raises(UserError, match=r"b/shard-000001\.json is missing"):
        merge(tmp_path / "merged", parts)


def test_the_same_set_twice_is_refused(parts, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        merge(tmp_path / "merged", [parts[0], parts[1], tmp_path / "b" / ".." / "a"])


@pytest.mark.parametrize("name", ["merged", "merged.new", "merged.old"])
def test_what_is_at_the_target_is_kept(parts, tmp_path, contents, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="rm -r"):
        merge(tmp_path / "merged", parts)
    assert contents(tmp_path / name) == {"thesis.txt": b"years of work"}


def test_an_input_below_the_temporary_name_is_kept(parts, tmp_path, contents):
    parts[1].rename(tmp_path / "merged.new")
    before = contents(tmp_path / "merged.new")
    with pytest.raises(UserError, match=r"merged\.new exists"):
        merge(tmp_path / "merged", [parts[0], tmp_path / "merged.new"])
    assert contents(tmp_path / "merged.new") == before


def test_an_empty_folder_is_taken(parts, tmp_path):
    (tmp_path / "merged").mkdir()
    merge(tmp_path / "merged", parts)
    assert verify(tmp_path / "merged").count == 42


def test_a_full_disk_leaves_nothing(parts, tmp_path, monkeypatch):
    write_json = merge_module.write_json

    def full(path, record):
        if path.name == "shard-000003.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(path, record)

    monkeypatch.setattr(merge_module, "write_json", full)
    with pytest.raises(UserError, match="No space left on device"):
        merge(tmp_path / "merged", parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "images"]


def merge_and_die(out, parts):
    """In a child process: kill -9 itself once the fourth shard's summary is written."""
    write_json = merge_module.write_json

    def write_and_die(path, record):
        write_json(path, record)
        if path.name == "shard-000003.json":
            os.kill(os.getpid(), signal.SIGKILL)

    merge_module.write_json = write_and_die
    merge(out, parts)


def test_a_kill_between_shards_leaves_no_set_and_says_what_to_delete(parts, tmp_path):
    out = tmp_path / "merged"
    process = multiprocessing.get_context("fork").Process(target=merge_and_die, args=(out, parts))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    assert not (tmp_path / "merged.new" / MANIFEST).exists()
    with pytest.raises(UserError, match=r"rm -r .*merged\.new"):
        merge(out, parts)


def test_a_merged_set_can_be_merged(parts, encode, tmp_path):
    merge(tmp_path / "ab", parts)
    assert merge(tmp_path / "abc", [tmp_path / "ab", encode("c")]).count == 63
    assert verify(tmp_path / "abc") == read_manifest(tmp_path / "abc")


def test_settings_that_only_cut_the_shards_differ_freely(parts, tmp_path):
    merged = merge(tmp_path / "merged", parts)
    assert [shard.count for shard in merged.shards] == [5, 5, 5, 5, 1, 8, 8, 5]
    assert [shard.name for shard in merged.shards] == [f"shard-{number:06d}" for number in range(8)]
    assert dataclasses.asdict(merged)["samples_per_shard"] == 8

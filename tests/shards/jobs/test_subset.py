import errno
import json
import tarfile

import numpy as np
import pytest
import webdataset

from latentdebias.autoencoders import PixelAutoencoder
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.shards import writer as writer_module
from latentdebias.shards.format import MANIFEST
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.jobs.merge import merge
from latentdebias.shards.jobs.subset import Selection, subset
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.reader import LatentShards


def samples_of(directory):
    """Source name -> the bytes of the latent, the flip and the class of each sample."""
    found = {}
    for path in sorted(directory.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in members:
            if name.endswith(".json"):
                key = name.removesuffix(".json")
                source = json.loads(members[name])["source"]
                found[source] = [members[name], *(members[f"{key}.{end}"] for end in ("latent.npy", "flip.npy", "cls"))]
    return found


@pytest.fixture
def directory(encode):
    return encode()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "subset"


def test_chosen_classes_keep_their_bytes_and_get_new_labels(directory, out):
    made = subset(out, directory, Selection(classes=("emu", "cat")))
    assert verify(out).count == 14
    assert (made.class_names, made.num_classes) == (["cat", "emu"], 2)
    before, after = samples_of(directory), samples_of(out)
    assert sorted(after) == [name for name in sorted(before) if not name.startswith("dog")]
    for name, members in after.items():
        assert members[:3] == before[name][:3]
        assert members[3] == {"cat": b"0", "emu": b"1"}[name[:3]]


def test_it_reads_through_both_readers(directory, out):
    subset(out, directory, Selection(per_class=2))
    moments, labels = LatentShards(out).read(np.arange(6), np.zeros(6, bool))
    tars = sorted(map(str, out.glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
    assert np.array_equal(np.stack([sample["latent.npy"] for sample in samples]), moments)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_everything_selected_is_the_set_again(directory, out):
    made = subset(out, directory, Selection())
    assert samples_of(out) == samples_of(directory)
    whole = LatentShards(directory).manifest
    assert (made.latent_mean, made.latent_std, made.shards) == (whole.latent_mean, whole.latent_std, whole.shards)


def test_statistics_are_those_of_the_kept_samples(directory, out):
    made = subset(out, directory, Selection(classes=("dog",)))
    shards = LatentShards(out)
    views = [shards.read(np.arange(7), np.full(7, flipped))[0] for flipped in (False, True)]
    mean, logvar = np.split(np.concatenate(views).astype(float), 2, axis=1)
    expected = mean.mean((0, 2, 3))
    assert np.allclose(made.latent_mean, expected, rtol=1e-9)
    assert np.allclose(made.latent_std, np.sqrt((mean**2 + np.exp(logvar)).mean((0, 2, 3)) - expected**2), rtol=1e-9)


def test_a_number_is_drawn_by_the_seed(directory, tmp_path):
    drawn = []
    for out, seed in [("one", 0), ("two", 0), ("three", 1)]:
        assert subset(tmp_path / out, directory, Selection(num=8, seed=seed)).count == 8
        drawn.append(samples_of(tmp_path / out))
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() != drawn[2].keys()


def test_a_class_is_drawn_alike_whichever_others_are_kept(directory, tmp_path):
    subset(tmp_path / "all", directory, Selection(per_class=3))
    subset(tmp_path / "dogs", directory, Selection(per_class=3, classes=("dog",)))
    dogs = [name for name in samples_of(tmp_path / "all") if name.startswith("dog")]
    assert sorted(samples_of(tmp_path / "dogs")) == sorted(dogs)


def test_keys_that_recur_in_a_merged_set_become_unique(encode, out, tmp_path):
    merge(tmp_path / "merged", [encode("a"), encode("b")])
    subset(out, tmp_path / "merged", Selection())
    assert verify(out).count == 42
    tars = sorted(map(str, out.glob("*.tar")))
    keys = {sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)}
    assert len({key.rpartition("/")[2] for key in keys}) == 42


def test_the_input_stays_as_it_was(directory, out, contents):
    before = contents(directory)
    subset(out, directory, Selection(num=3))
    assert contents(directory) == before


def test_a_set_without_flips_or_labels_gives_one(encode, image_dir, out):
    for number, path in enumerate(sorted(image_dir.rglob("*.png"))):
        path.rename(image_dir / f"{number:02d}.png")
    for folder in ("cat", "dog", "emu"):
        (image_dir / folder).rmdir()
    flat = encode("flat", flips=False)
    assert subset(out, flat, Selection(num=4)).num_classes == 0
    assert verify(out).count == 4
    for selection in (Selection(classes=("cat",)), Selection(per_class=1)):
        with pytest.raises(UserError, match="no labels"):
            subset(out, flat, selection)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(classes=("cat", "dgo")), r"Unknown class 'dgo'\. Did you mean 'dog'\?"),
        (Selection(num=22), "--num 22 is not to be had: ask for 1 to 21"),
        (Selection(num=0), "--num 0 is not"),
        (Selection(num=8, classes=("cat",)), "ask for 1 to 7"),
        (Selection(per_class=8), "class 'cat' holds 7 samples"),
    ],
)
def test_what_is_not_there_is_refused_before_any_write(directory, out, selection, message):
    with pytest.raises(UserError, match=message):
        subset(out, directory, selection)
    assert not out.exists()


def test_an_unfinished_input_is_refused(directory, out):
    (directory / MANIFEST).unlink()
    with pytest.raises(UserError, match="is not finished"):
        subset(out, directory, Selection(num=1))


def test_damage_is_not_copied_into_a_set_that_verifies(directory, out):
    index = np.load(directory / "shard-000001.index.npy")
    with (directory / "shard-000001.tar").open("r+b") as tar:
        tar.seek(index["latent"][2])
        tar.write(b"\x01")
    with pytest.raises(UserError, match=r"shard-000001\.tar does not have the sha256"):
        subset(out, directory, Selection())
    assert not out.exists()
    assert not out.with_name("subset.new").exists()


def test_an_index_that_points_elsewhere_is_refused(directory, out):
    path = directory / "shard-000001.index.npy"
    index = np.load(path)
    index["latent"][2] += 512
    np.save(path, index)
    with pytest.raises(UserError, match="holds no whole sample at byte"):
        subset(out, directory, Selection())


def test_a_folder_in_use_is_refused(directory, out, contents):
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        subset(out, directory, Selection())
    assert contents(out) == {"notes.txt": b"mine"}


def test_a_full_disk_leaves_nothing(directory, out, monkeypatch):
    publish = writer_module.publish

    def full(path, data):
        if path.name == "shard-000002.index.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(path, data)

    monkeypatch.setattr(writer_module, "publish", full)
    with pytest.raises(UserError, match="No space left on device"):
        subset(out, directory, Selection())
    assert not out.exists()
    assert not out.with_name("subset.new").exists()


def test_pixels_are_copied_as_uint8(image_dir, out, tmp_path):
    encode_images(
        find_images(str(image_dir)), PixelAutoencoder(), tmp_path / "pixels", EncodeJob(resolution=32, workers=0)
    )
    made = subset(out, tmp_path / "pixels", Selection(classes=("dog",)))
    shards, whole = LatentShards(out), LatentShards(tmp_path / "pixels")
    assert (made.dtype, verify(out).count) == ("uint8", 7)
    kept = [
        reader.read(rows, np.zeros(7, bool))[0] for reader, rows in ((shards, np.arange(7)), (whole, np.arange(7, 14)))
    ]
    assert np.array_equal(*kept)

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

from latentdebias.errors import UserError
from latentdebias.shards import reader
from latentdebias.shards.completeness import refuse_absent
from latentdebias.shards.reader import LatentShards


def plain(count):
    return np.zeros(count, bool)


def test_any_order_gives_what_webdataset_gives(encode):
    directory = encode()
    paths = sorted(str(path) for path in directory.glob("*.tar"))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    shards = LatentShards(directory)
    assert (len(shards), shards.latent_shape, shards.num_classes) == (21, (4, 4, 4), 3)
    rng = np.random.default_rng(0)
    indices, flipped = rng.integers(0, 21, 64), rng.random(64) < 0.5
    moments, labels = shards.read(indices, flipped)
    assert (moments.dtype, labels.dtype) == (np.float16, np.int64)
    for row, (index, flip) in enumerate(zip(indices, flipped, strict=True)):
        assert np.array_equal(moments[row], samples[index]["flip.npy" if flip else "latent.npy"])
        assert labels[row] == samples[index]["cls"]


def test_read_of_nothing_is_empty(encode):
    moments, labels = LatentShards(encode()).read(np.zeros(0, np.int64), plain(0))
    assert moments.shape == (0, 8, 4, 4)
    assert labels.shape == (0,)


def test_indices_outside_the_set_are_errors(encode):
    with pytest.raises(IndexError):
        LatentShards(encode()).read(np.array([21]), plain(1))


def test_flips_of_a_set_without_them_are_refused(encode):
    shards = LatentShards(encode(flips=False))
    shards.read(np.arange(21), plain(21))
    with pytest.raises(UserError, match="--flip"):
        shards.read(np.array([0]), np.array([True]))


def test_few_descriptors_suffice_for_many_shards(encode, monkeypatch):
    monkeypatch.setattr(reader, "MAX_OPEN_SHARDS", 2)
    shards = LatentShards(encode())
    expected, _ = shards.read(np.arange(21), plain(21))
    order = np.random.default_rng(0).permutation(21)
    before = len(os.listdir("/proc/self/fd"))
    assert np.array_equal(shards.read(order, plain(21))[0], expected[order])
    assert len(os.listdir("/proc/self/fd")) <= before


def test_forked_and_pickled_readers_read_the_same(encode):
    shards = LatentShards(encode())
    expected, _ = shards.read(np.arange(21), plain(21))

    class Batches(list):
        def __getitem__(self, number):
            return shards.read(np.array([number]), plain(1))[0][0]

    context = multiprocessing.get_context("fork")
    loader = DataLoader(Batches(range(21)), batch_size=7, num_workers=2, multiprocessing_context=context)
    assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(shards)).read(np.arange(21), plain(21))[0], expected)


def zero_fill(path):
    path.write_bytes(bytes(path.stat().st_size))


def zero_tail(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("shard-000001.tar", lambda path: path.unlink(), "missing"),
        ("shard-000001.tar", lambda path: os.truncate(path, path.stat().st_size - 512), "bytes instead of"),
        ("shard-000001.tar", zero_fill, "overwritten"),
        ("shard-000001.tar", zero_tail, "overwritten"),
        ("shard-000001.index.npy", lambda path: path.unlink(), "missing"),
        ("shard-000001.index.npy", lambda path: os.truncate(path, 140), "cannot be read"),
        ("shard-000001.index.npy", lambda path: np.save(path, np.zeros(3)), "does not hold 5 rows"),
    ],
    ids=["no tar", "cut tar", "zeroed tar", "zeroed tail", "no index", "cut index", "wrong index"],
)
def test_a_damaged_shard_is_refused_at_start_by_name_with_the_command(encode, contents, name, damage, fault):
    directory = encode()
    before = contents(directory)
    damage(directory / name)
    with pytest.raises(UserError, match=fault) as caught:
        LatentShards(directory)
    message = str(caught.value)
    assert name in message
    assert "1 of 5" in message
    command = f"latentdebias encode --images IMAGE_DIR --out {directory} --vae pool --resolution 32"
    assert f"{command} --samples-per-shard 5 --forward-batch 4 --flip" in message
    for part in directory.glob("shard-000001.*"):
        part.unlink()
    assert contents(encode()) == before


@pytest.mark.parametrize(
    ("field", "number"), [("latent", 2**62), ("latent", -1), ("flip", 10**9), ("flip", -2), ("label", 3), ("label", -2)]
)
def test_an_index_that_points_outside_its_tar_or_classes_is_refused(encode, field, number):
    directory = encode()
    index = np.load(directory / "shard-000001.index.npy")
    index[field][2] = number
    np.save(directory / "shard-000001.index.npy", index)
    with pytest.raises(UserError, match=r"shard-000001\.index\.npy cannot be read .*(outside|beyond)"):
        LatentShards(directory)


@pytest.mark.parametrize(
    "header", [b"{'descr': ((((", b"{" * 118, b"\xff" * 118, b"{'shape': (10**9,)}", b"PK\x03\x04"]
)
def test_an_index_whose_header_cannot_be_parsed_is_refused(encode, header):
    directory = encode()
    path = directory / "shard-000001.index.npy"
    path.write_bytes(path.read_bytes()[:10] + header.ljust(118) + path.read_bytes()[128:])
    with pytest.raises(UserError, match=r"shard-000001\.index\.npy cannot be read"):
        LatentShards(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"shards": [["shard-000000", 5]]},
        {"shards": ["shard-000000"]},
        {"shards": {"name": "shard-000000"}},
        {"rejected": [{"name": 3}]},
        {"autoencoder": {}},
        {"autoencoder": ["pool"]},
        {"latent_shape": [4, 10**12, 4]},
        {"latent_mean": [0.0]},
        {"num_classes": 10**15},
        {"format_version": "one"},
        {"count": None},
    ],
)
def test_a_manifest_of_another_shape_is_refused(encode, change):
    directory = encode()
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"manifest\.json"):
        LatentShards(directory)


def test_a_pickled_index_is_not_loaded(encode):
    directory = encode()
    np.save(directory / "shard-000000.index.npy", np.array([{}] * 5), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        LatentShards(directory)


def test_a_tar_that_shrinks_while_reading_is_an_error(encode):
    directory = encode()
    shards = LatentShards(directory)
    os.truncate(directory / "shard-000000.tar", 2000)
    with pytest.raises(UserError, match=r"shard-000000\.tar ends before byte"):
        shards.read(np.arange(5), plain(5))


def refusal(check, *arguments):
    with pytest.raises(UserError) as caught:
        check(*arguments)
    return str(caught.value)


def test_an_absent_folder_is_named_with_the_command(tmp_path):
    message = refusal(LatentShards, tmp_path / "none")
    assert f"the folder {tmp_path / 'none'} does not exist" in message
    assert f"--out {tmp_path / 'none'} --vae ID_OR_DIR --resolution N" in message
    (tmp_path / "none").mkdir()
    assert "holds no manifest.json" in refusal(LatentShards, tmp_path / "none")


@pytest.mark.parametrize("flips", [False, True])
def test_the_command_for_an_absent_set_is_the_one_that_is_wanted(tmp_path, flips):
    message = refusal(refuse_absent, tmp_path / "none", "stabilityai/sd-vae-ft-mse", 256, flips)
    assert f"--out {tmp_path / 'none'} --vae stabilityai/sd-vae-ft-mse --resolution 256" in message
    assert ("--resolution 256 --flip" in message) == flips


def test_an_unfinished_set_lists_the_shards_to_be_made(encode):
    directory = encode(rank=0, world_size=2)
    assert "2 of 5 shards are still to be made: shard-000001; shard-000003." in refusal(LatentShards, directory)


def test_the_command_for_an_unfinished_set_is_that_of_its_plan(encode, make_encoder):
    rounding = make_encoder()
    rounding.dtype = torch.bfloat16
    directory = encode(encoder=rounding, rank=0, world_size=2)
    refuse_absent(directory, "other/vae", 256)
    options = "--vae pool --resolution 32 --samples-per-shard 5 --forward-batch 4 --flip --dtype bf16"
    assert f"--out {directory} {options}" in refusal(LatentShards, directory)
    in_tf32 = encode("tf32", precision="tf32", rank=0, world_size=2)
    assert "--flip --dtype tf32" in refusal(LatentShards, in_tf32)


def test_of_many_missing_shards_ten_are_named(encode):
    message = refusal(LatentShards, encode(samples_per_shard=1, rank=20, world_size=21))
    assert "20 of 21 shards are still to be made" in message
    assert "shard-000009; ... and 10 more." in message
    assert "shard-000010" not in message


def test_each_index_is_read_once(encode, monkeypatch):
    directory, opened = encode(), []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    assert len(LatentShards(directory)) == 21
    assert opened == [f"shard-{number:06d}.index.npy" for number in range(5)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"format_version": 99}', "format version 99"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"format_version": 1}', "Missing key"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_a_users_error(encode, text, fault):
    directory = encode()
    (directory / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=fault):
        LatentShards(directory)

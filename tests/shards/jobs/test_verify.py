import hashlib
import json

import numpy as np
import pytest

from latentdebias.errors import UserError
from latentdebias.shards.format import read_manifest, write_json
from latentdebias.shards.jobs.verify import verify


def test_a_good_set_passes(encode):
    assert verify(encode()).count == 21


def test_every_flipped_byte_of_a_payload_is_caught(encode):
    directory = encode()
    path = directory / "shard-000002.tar"
    data = path.read_bytes()
    for position in np.linspace(0, len(data) - 1, 9).astype(int):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"shard-000002\.tar"):
            verify(directory)


def rehash(directory, name):
    """Give the manifest the damaged shard's sha256, so that only the other checks can find the damage."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        if shard["name"] == name:
            shard["sha256"] = hashlib.sha256((directory / f"{name}.tar").read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_a_number_that_is_not_finite_is_caught(encode):
    directory = encode()
    index = np.load(directory / "shard-000001.index.npy")
    with (directory / "shard-000001.tar").open("r+b") as tar:
        tar.seek(index["flip"][3])
        tar.write(np.float16("nan").tobytes())
    rehash(directory, "shard-000001")
    with pytest.raises(UserError, match=r"sample 000000008: flip\.npy is no finite"):
        verify(directory)


@pytest.mark.parametrize(("field", "fault"), [("latent", r"latent\.npy"), ("flip", r"flip\.npy"), ("label", "label")])
def test_an_index_that_disagrees_with_the_tar_is_caught(encode, field, fault):
    directory = encode()
    path = directory / "shard-000001.index.npy"
    index = np.load(path)
    index[field][[1, 2]] = index[field][[2, 4 if field == "label" else 1]] + (field == "label")
    np.save(path, index)
    with pytest.raises(UserError, match=fault):
        verify(directory)


def test_a_wrong_total_is_caught(encode):
    directory = encode()
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "count": 20}))
    with pytest.raises(UserError, match="counts 20 samples and its shards 21"):
        verify(directory)


def test_all_damage_is_listed(encode):
    directory = encode()
    for number in (0, 3):
        path = directory / f"shard-00000{number}.tar"
        data = bytearray(path.read_bytes())
        data[700] ^= 255
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-000000\.tar.*shard-000003\.tar"):
        verify(directory)


def test_manifest_survives_a_round_trip(encode, tmp_path):
    directory = encode()
    write_json(tmp_path / "copy.json", read_manifest(directory))
    assert (tmp_path / "copy.json").read_bytes() == (directory / "manifest.json").read_bytes()

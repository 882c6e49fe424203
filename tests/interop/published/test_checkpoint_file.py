import argparse
import hashlib
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from latentdebias.errors import UserError
from latentdebias.interop.published.checkpoint_file import open_checkpoint

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def check_weights(file):
    assert file.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(file.weights[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("key", ["ema", "model", "state_dict", None])
def test_a_bare_state_dict_and_containers_are_read(tmp_path, key):
    torch.save({key: WEIGHTS, "opt": {"lr": 1.0}} if key else WEIGHTS, tmp_path / "file.pt")
    file = open_checkpoint(tmp_path / "file.pt")
    check_weights(file)
    assert file.container == (key or "")
    assert file.sha256 == hashlib.sha256((tmp_path / "file.pt").read_bytes()).hexdigest()


def test_the_average_comes_before_the_weights(tmp_path):
    others = {name: weight + 1 for name, weight in WEIGHTS.items()}
    torch.save({"model": others, "ema": WEIGHTS}, tmp_path / "file.pt")
    check_weights(open_checkpoint(tmp_path / "file.pt"))


def test_dits_training_checkpoints_open_with_their_command_line(tmp_path):
    arguments = argparse.Namespace(model="DiT-XL/2", image_size=256, vae="ema")
    torch.save({"model": {}, "ema": WEIGHTS, "opt": {"state": {}}, "args": arguments}, tmp_path / "0400000.pt")
    check_weights(open_checkpoint(tmp_path / "0400000.pt"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off(tmp_path, prefix):
    torch.save({prefix + name: weight for name, weight in WEIGHTS.items()}, tmp_path / "file.pt")
    check_weights(open_checkpoint(tmp_path / "file.pt"))


def test_half_precision_becomes_fp32(tmp_path):
    torch.save({name: weight.half() for name, weight in WEIGHTS.items()}, tmp_path / "file.pt")
    check_weights(open_checkpoint(tmp_path / "file.pt"))


def test_the_format_before_zip_files_is_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    check_weights(open_checkpoint(tmp_path / "file.pt"))


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "file.safetensors")
    check_weights(open_checkpoint(tmp_path / "file.safetensors"))


@pytest.mark.parametrize("place", ["beside the weights", "alone", "in the command line"])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, place):
    marker, path = tmp_path / "ran", tmp_path / "file.pt"
    bad = RunsCode(marker)
    if place == "alone":
        path.write_bytes(pickle.dumps(bad, protocol=2))
    else:
        inside = argparse.Namespace(bad=bad) if place == "in the command line" else bad
        torch.save({"ema": WEIGHTS, "args": inside}, path)
    with pytest.raises(UserError, match="never run"):
        open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04" + bytes(60)])
def test_a_damaged_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_checkpoint(tmp_path / name)


def test_a_truncated_file_is_an_error(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "file.pt")
    (tmp_path / "file.pt").write_bytes((tmp_path / "file.pt").read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged"):
        open_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.zeros(1)]])
def test_what_is_no_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"state_dict\(\)"):
        open_checkpoint(tmp_path / "file.pt")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no file"):
        open_checkpoint(tmp_path / "file.pt")

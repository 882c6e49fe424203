"""Our writer of safetensors files against safetensors' own, and copies that a file is written from later."""

import hashlib
import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentdebias.training.checkpoints import safetensors_file
from latentdebias.training.checkpoints.safetensors_file import DTYPES, copies_on_cpu, write_safetensors

NOTES = {"starts": '{"ä": 1}', "numbers": "2"}


def a_tensor_of_each_dtype():
    values = {f"{name}/weight": torch.arange(5).to(dtype) for dtype, name in DTYPES.items()}
    several = {"step": torch.tensor(3.0), "none": torch.empty(0), "matrix": torch.randn(7, 3), "b": torch.randn(40)}
    return {**several, **values}


def header_and_data(path):
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@pytest.mark.parametrize("piece_bytes", [16, 2**26])
def test_a_file_is_as_safetensors_writes_it(tmp_path, monkeypatch, piece_bytes):
    """But for the order of the metadata, which differs between two of its own files."""
    monkeypatch.setattr(safetensors_file, "PIECE_BYTES", piece_bytes)
    tensors = a_tensor_of_each_dtype()
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    sha256 = write_safetensors(ours, tensors, NOTES)
    save_file(tensors, theirs, metadata=NOTES)
    assert header_and_data(ours) == header_and_data(theirs)
    assert list(header_and_data(ours)[0])[1:] == [name for name in header_and_data(theirs)[0] if name in tensors]
    assert ours.stat().st_size == theirs.stat().st_size
    assert sha256 == hashlib.sha256(ours.read_bytes()).hexdigest()
    assert all(torch.equal(read, tensors[name]) for name, read in load_file(ours).items())


@pytest.mark.parametrize("block_bytes", [32, 200, 2**28])
def test_copies_share_no_memory_with_anything(monkeypatch, block_bytes):
    monkeypatch.setattr(safetensors_file, "BLOCK_BYTES", block_bytes)
    tensors = a_tensor_of_each_dtype()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    copies = copies_on_cpu(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    assert all(torch.equal(copies[name], expected) for name, expected in before.items())
    assert {name: copy.dtype for name, copy in copies.items()} == {name: each.dtype for name, each in before.items()}
    ranges = sorted((copy.data_ptr(), copy.data_ptr() + copy.nbytes) for copy in copies.values() if copy.numel())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))

"""What a checkpoint copies and writes is the same from a GPU, through pinned memory, as from the CPU."""

import pytest
import torch
from safetensors.torch import load_file
from state_devices import state_of, update

from latentdebias.training.checkpoints import checkpoint, safetensors_file
from latentdebias.training.checkpoints.safetensors_file import copies_on_cpu
from latentdebias.training.optimizers import TimmOptimizer


@pytest.mark.parametrize("piece_bytes", [4096, 2**26])
def test_a_copy_and_the_state_itself_give_the_same_file(tmp_path, device, monkeypatch, piece_bytes):
    monkeypatch.setattr(safetensors_file, "PIECE_BYTES", piece_bytes)
    state, optimizer = state_of(TimmOptimizer(opt="novograd", lr=1e-3), device)
    update(optimizer)
    share = state.share()
    copied = share.copied()
    assert {tensor.is_pinned() for tensor in copied.tensors.values()} == {device.type == "cuda"}
    assert share.write(tmp_path / "itself") == copied.write(tmp_path / "copy")
    before = {name: tensor.cpu().clone() for name, tensor in share.tensors.items()}
    update(optimizer)
    assert copied.write(tmp_path / "later") == copied.write(tmp_path / "copy")
    assert all(torch.equal(read, before[name]) for name, read in load_file(tmp_path / "later").items())


def test_pinned_copies_are_done_when_they_are_returned(device):
    """The source is written to at once, behind a long queue of work."""
    matrix = torch.randn(2048, 2048, device=device)
    for _ in range(50 if device.type == "cuda" else 1):
        matrix = (matrix @ matrix).tanh()
    tensors = {"a": matrix, "b": matrix[0, 0], "c": torch.arange(7, device=device)}
    expected = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    copies = copies_on_cpu(tensors)
    matrix.zero_()
    assert all(torch.equal(copies[name], value) for name, value in expected.items())


def test_a_run_writes_the_same_bytes_with_and_without_a_copy(make_run, tmp_path, monkeypatch):
    files = []
    for free in (10**12, 0):
        monkeypatch.setattr(checkpoint, "free_host_memory", lambda free=free: free)
        run = make_run(f"run_dir={tmp_path / str(free)}")
        run.checkpoints.save(1)
        run.checkpoints.finish()
        files.append((run.run_dir / "checkpoints" / "step-00000001" / "rank-00000.safetensors").read_bytes())
    assert files[0] == files[1]

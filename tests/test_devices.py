import pytest
import torch

from latentdebias.devices import default_device, open_device
from latentdebias.errors import UserError


def test_more_processes_than_gpus_share_them_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [default_device(local_rank) for local_rank in range(5)] == [f"cuda:{i}" for i in (0, 1, 0, 1, 0)]


def test_without_a_gpu_every_process_takes_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device(3) == "cpu"


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs as far as `open_device` can tell; the fixture lists those that it chose."""
    chosen = []

    def ones(size, device):
        if device.type == "cuda" and device.index not in (0, 1):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.zeros(size)

    def set_device(device):
        if device.index is None:
            raise ValueError("Expected a torch.device with a specified index or an integer, but got: cuda")
        chosen.append(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch, "ones", ones)
    return chosen


@pytest.mark.parametrize(("name", "index"), [(None, 1), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_is_opened_by_its_number_or_by_the_process(two_gpus, monkeypatch, name, index):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_device(name) == torch.device("cuda", index)
    assert two_gpus == [torch.device("cuda", index)]


@pytest.mark.parametrize("name", ["cuda:99", "banana", "cuda:-1", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(two_gpus, name):
    with pytest.raises(UserError, match=f"--device '{name}'.*cpu, cuda, cuda:0, cuda:1"):
        open_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99", "banana", "meta"])
def test_without_a_gpu_there_is_only_the_cpu(name):
    with pytest.raises(UserError, match=rf"--device '{name}' .*Legal here: cpu\.$"):
        open_device(name)


def test_the_same_computation_gives_the_same_bits_on_an_opened_device():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.deterministic = False
    assert open_device("cpu") == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.deterministic

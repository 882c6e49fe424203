import subprocess
import sys

import pytest
import torch

from latentdebias import devices, distributed
from latentdebias.devices import default_device, open_device, share_cores
from latentdebias.errors import UserError


def pretend_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_process_takes_the_gpu_of_its_number_or_the_only_one_it_sees(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    assert [default_device(local_rank) for local_rank in range(2)] == ["cuda:0", "cuda:1"]
    pretend_gpus(monkeypatch, 1)
    assert default_device(3) == "cuda:0"


def test_two_processes_do_not_share_a_gpu_in_silence(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    with pytest.raises(UserError, match=r"2 GPUs.*start at most 2"):
        default_device(2)


@pytest.mark.parametrize(
    ("environment", "parent", "threads"),
    [
        ({}, b"", 3),
        ({"OMP_NUM_THREADS": "5"}, b"", 7),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}, b"HOME=/\0", 3),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}, b"HOME=/\0OMP_NUM_THREADS=1\0", 7),
        ({"SLURM_CPUS_PER_TASK": "2", "SLURM_STEP_NUM_TASKS": "2"}, b"", 2),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_STEP_NUM_TASKS": "1", "TORCHELASTIC_RUN_ID": "x"}, b"", 3),
    ],
    ids=["deepspeed", "set by the user", "torchrun", "set by the user of torchrun", "srun", "torchrun under srun"],
)
def test_the_cores_are_shared_by_one_rule_under_all_launchers(monkeypatch, environment, parent, threads):
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "SLURM_CPUS_PER_TASK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(devices.Path, "exists", lambda path: True)
    monkeypatch.setattr(devices.Path, "read_bytes", lambda path: parent)
    torch.set_num_threads(7)
    share_cores()
    assert torch.get_num_threads() == threads


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

    pretend_gpus(monkeypatch, 2)
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


PAGE_FAULTS = """
import resource, torch
from latentdebias.devices import open_device

open_device("cpu")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own way with memory")
def test_a_large_tensor_takes_the_memory_of_the_one_before():
    # In a process of its own: in this one, other tests have left the memory in pieces.
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    first, *_, last = map(int, done.stdout.split())
    assert first > 10_000
    assert last < 100

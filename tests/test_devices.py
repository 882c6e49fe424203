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
        ({"SLURM_CPUS_PER_TASK": "2"}, b"", 2),
    ],
    ids=["deepspeed", "set by the user", "torchrun", "set by the user of torchrun", "srun"],
)
def test_the_cores_are_shared_by_one_rule_under_all_launchers(monkeypatch, environment, parent, threads):
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "SLURM_CPUS_PER_TASK"):
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


def test_fp32_is_no_tf32_on_an_opened_device():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert open_device("cpu") == torch.device("cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

"""How a rank joins the others, and what DeepSpeed is told: seen on a CPU, for GPUs too."""

import datetime
import os

import deepspeed
import pytest
import torch

from latentdebias import process_groups
from latentdebias.errors import UserError
from latentdebias.training import engine
from latentdebias.training.engine import start_distributed, training_device

MINUTE = datetime.timedelta(minutes=1)


def timeout_of(group):
    return group._get_backend(torch.device("cpu")).options._timeout


@pytest.mark.usefixtures("process_group")
def test_the_ranks_wait_for_a_step_a_little_longer_than_the_watchdog():
    """DeepSpeed trains with a group of its own beside the default one."""
    hang_timeout = datetime.timedelta(seconds=engine.HANG_TIMEOUT)
    for group in (torch.distributed.group.WORLD, deepspeed.utils.groups._get_data_parallel_group()):
        assert timeout_of(group) == hang_timeout + MINUTE


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("purpose", ["messages", "agreement", "checkpoints"])
def test_other_waits_are_on_the_cpu_and_as_long_as_it_takes(purpose):
    group = process_groups.cpu_group(purpose)
    assert torch.distributed.get_backend(group) == "gloo"
    # What the making of the group took is off already.
    assert process_groups.PATIENCE - MINUTE < timeout_of(group) <= process_groups.PATIENCE


@pytest.mark.usefixtures("process_group")
def test_deepspeed_does_not_probe_its_operations():
    assert vars(deepspeed.ops)["__compatible_ops__"] == {"deepspeed_shm_comm": False}


def test_deepspeeds_accelerator_decides_where_a_run_trains(monkeypatch):
    """As with DS_ACCELERATOR=cpu on a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training_device() == torch.device("cpu")


@pytest.fixture
def joined(monkeypatch):
    """What DeepSpeed is told by a rank that sees one GPU; nothing is joined."""
    told = {}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(engine, "training_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(device=device))
    monkeypatch.setattr(deepspeed, "init_distributed", lambda backend, **options: told.update(options, backend=backend))
    monkeypatch.setattr(deepspeed.utils.groups, "_get_data_parallel_group", lambda: None)
    monkeypatch.setattr(engine, "set_timeout", lambda timeout, group: None)
    return told


def test_open_mpi_and_deepspeed_agree_on_the_only_gpu_that_a_rank_sees(joined):
    numbers = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    os.environ.update({f"OMPI_COMM_WORLD_{name}": number for name, number in numbers.items()})
    os.environ.update(numbers, MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    start_distributed(hang_timeout=30.0)
    # DeepSpeed asserts that the two are equal.
    assert os.environ["LOCAL_RANK"] == os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == "0"
    assert joined["device"] == torch.device("cuda:0")
    assert joined["backend"] == "nccl"
    assert joined["timeout"] == datetime.timedelta(seconds=90)


def test_without_a_watchdog_the_ranks_wait_all_the_same(joined):
    start_distributed(hang_timeout=0)
    assert joined["timeout"] == process_groups.PATIENCE
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeeds_timer_is_off(make_run, zero_stage):
    """It waits for the device twice a micro-batch."""
    run = make_run(f"deepspeed.zero_optimization.stage={zero_stage}")
    assert not run.engine.deepspeed.tput_timer.config.enabled


def test_zero_3_gathers_weights_only_once_the_update_is_done(make_run):
    run, events = make_run("deepspeed.zero_optimization.stage=3", "training.steps=2"), []

    class Stream:
        def wait_stream(self, other):
            events.append("gathers wait")

    run.engine.deepspeed.optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream = Stream()
    run.engine.base_optimizer.register_step_post_hook(lambda *_: events.append("update"))
    run.engine.deepspeed.module.register_forward_hook(lambda *_: events.append("forward"))
    run.train()
    in_turn = [event for last, event in zip(["", *events], events, strict=False) if event != last]
    assert in_turn == ["gathers wait", "forward", "update"] * 2


def test_nccls_word_on_a_shared_gpu_becomes_one_paragraph(joined, monkeypatch):
    def refuse(*_, **__):
        raise torch.distributed.DistBackendError("NCCL error ... Duplicate GPU detected : rank 0 and rank 1")

    monkeypatch.setattr(deepspeed, "init_distributed", refuse)
    with pytest.raises(UserError, match="have the same GPU"):
        start_distributed()


def test_deterministic_training_asks_torch_for_it(make_run, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        run = make_run("training.deterministic=true", "training.precision=bf16")
        assert torch.are_deterministic_algorithms_enabled()
        # Only warnings would leave attention as it is.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        run.train()
    finally:
        torch.use_deterministic_algorithms(False)

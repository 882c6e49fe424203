"""Two ranks in processes of their own, without a launcher, and what they are given to do."""

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import forking  # noqa: F401
import torch

from latentdebias.distributed import free_port
from latentdebias.process_groups import set_timeout
from latentdebias.training.hooks import TrainState, together


def on_two_ranks(work: Callable[..., None], *arguments: object) -> None:
    """Call `work(*arguments)` on two ranks that have joined; an error on either is raised here."""
    # Forks of the server of `forking`, which has the imports.
    torch.multiprocessing.start_processes(_join, (free_port(), work, arguments), nprocs=2, start_method="forkserver")


def _join(rank: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    from latentdebias.training.engine import start_distributed, stop_distributed

    start_distributed()
    work(*arguments)
    stop_distributed()


def train(overrides: list[str]) -> None:
    """Train as `latentdebias train` does."""
    from latentdebias.config import load_config
    from latentdebias.prepare import prepare
    from latentdebias.run import Run

    Run(prepare(load_config("digits_debias.yaml", overrides))).train()


def train_with_slow_updates(overrides: list[str], cycles: int) -> None:
    """Train, with every update held up on the GPU for so many clock cycles while the host goes on."""
    from latentdebias.config import load_config
    from latentdebias.prepare import prepare
    from latentdebias.run import Run

    run = Run(prepare(load_config("digits_debias.yaml", overrides)))
    if run.engine.device.type == "cuda" and cycles:
        run.engine.base_optimizer.register_step_pre_hook(lambda *_: torch.cuda._sleep(cycles))
    run.train()


def outlast_the_timeout(out: Path) -> None:
    """A hook holds rank 0 up for longer than the collectives of the training wait; they work all the same."""
    from latentdebias.training.engine import training_device

    rank, total = torch.distributed.get_rank(), torch.zeros(1, device=training_device())
    # NCCL connects the ranks at their first collective, which takes seconds.
    torch.distributed.all_reduce(total)
    set_timeout(datetime.timedelta(seconds=3), torch.distributed.group.WORLD)
    together([lambda state: time.sleep(7 * (rank == 0))])(TrainState())
    total += 1
    torch.distributed.all_reduce(total)
    if rank == 0:
        out.write_text(json.dumps(total.item()))

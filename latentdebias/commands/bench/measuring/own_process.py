"""Functions in fresh processes, as many as there are ranks, so that one measurement does not weigh on the next."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

import torch

from latentdebias.distributed import free_port

T = TypeVar("T")


def fresh_processes() -> SpawnContext | ForkServerContext:
    """How a process starts that shares nothing with this one: on a CPU as the fork of a server with all imports."""
    if torch.cuda.is_available():
        # A fork could not use a GPU that the server has asked about.
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["latentdebias.commands.bench"])
    return context


def in_processes(ranks: int, function: Callable[..., T], *arguments: Any) -> T:
    """What `function(*arguments)` returns on rank 0 of `ranks` fresh processes, described to them as by a launcher.

    On a CPU several have a thread each. Whatever the function raises on rank 0 is raised here.
    """
    port, threads = free_port(), 1 if ranks > 1 else torch.get_num_threads()
    with ProcessPoolExecutor(ranks, fresh_processes()) as pool:
        results = [pool.submit(_as_rank, rank, ranks, port, threads, function, arguments) for rank in range(ranks)]
        return results[0].result()


def _as_rank(
    rank: int, ranks: int, port: int, threads: int, function: Callable[..., T], arguments: tuple[Any, ...]
) -> T:
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in place.items()}})
    torch.set_num_threads(threads)
    return function(*arguments)

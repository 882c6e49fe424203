"""Sharing the work of one evaluation among the processes of a launcher."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed as dist

from latentdebias.distributed import export_launcher_variables, world_size

PATIENCE = datetime.timedelta(hours=12)
"""How long one rank waits for another: drawing 50,000 images takes hours, and GPUs differ in speed."""


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Join a launcher's processes in one gloo group inside the block; a single process has no group."""
    if world_size() == 1:
        yield
        return
    export_launcher_variables()
    dist.init_process_group("gloo", timeout=PATIENCE)
    yield
    # Skipped after an exception: this rank must not wait for the others, which the launcher ends.
    dist.destroy_process_group()


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks inside `joined_ranks`; (0, 1) outside."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def gathered(value: Any) -> list[Any]:
    """On rank 0 the values of all ranks in their order; on every other rank an empty list."""
    if not _joined():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def from_first(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not _joined():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()

"""Several processes that share the work of one evaluation."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed as dist

from latentdebias.distributed import export_launcher_variables, world_size

PATIENCE = datetime.timedelta(hours=12)
"""How long one rank waits for another: drawing 50,000 images takes hours, and how many differs between GPUs."""


@contextmanager
def joined_ranks() -> Iterator[None]:
    """The processes of a launcher as one gloo group inside the block; without a launcher, nothing."""
    if world_size() == 1:
        yield
        return
    export_launcher_variables()
    dist.init_process_group("gloo", timeout=PATIENCE)
    yield
    # Not after an exception: the launcher ends the others, and they must not be waited for.
    dist.destroy_process_group()


def ranks() -> tuple[int, int]:
    """This process's rank and their number inside `joined_ranks`, (0, 1) outside."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on rank 0; elsewhere an empty list."""
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

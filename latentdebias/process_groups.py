"""Groups of the processes of a run, the messages they send on the CPU, and how long one process waits for another."""

import datetime
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed as dist

from latentdebias.distributed import export_launcher_variables, world_size
from latentdebias.errors import UserError

PATIENCE = datetime.timedelta(hours=12)
"""How long one rank waits for another outside the steps of training: drawing 50,000 images takes hours."""


def export_variables() -> None:
    """Set the variables that torch.distributed reads; `UserError` under srun or mpirun without a place to meet."""
    try:
        export_launcher_variables()
    except KeyError as missing:
        raise UserError(
            f"{world_size()} processes were started, and {missing} is not set: where they meet. Export MASTER_ADDR "
            f"(the host of rank 0; under Slurm the first of `scontrol show hostnames`) and MASTER_PORT (a free port "
            f"there); mpirun passes them on with -x MASTER_ADDR -x MASTER_PORT."
        ) from None


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Join a launcher's processes in one gloo group inside the block; a single process has no group."""
    if world_size() == 1:
        yield
        return
    export_variables()
    dist.init_process_group("gloo", timeout=PATIENCE)
    yield
    # Skipped after an exception: this rank must not wait for the others, which the launcher ends.
    dist.destroy_process_group()


def cpu_group(purpose: str) -> dist.ProcessGroup:
    """A gloo group of all ranks for one purpose, which waits up to `PATIENCE`, and on which no GPU ever waits.

    Every rank must call it for the same purposes in the same order; the group is made at the first call.
    """
    return _cpu_group(dist.group.WORLD, purpose)


@functools.cache
def _cpu_group(world: dist.ProcessGroup | None, purpose: str) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup), "a group of all ranks has every rank in it"
    return group


def set_timeout(timeout: datetime.timedelta, group: dist.ProcessGroup) -> None:
    """Let the collectives of `group` that start from now on give up after `timeout`."""
    # The public function came after torch 2.6, which the package still runs on.
    setter = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    setter(timeout, group)


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks that share work; (0, 1) where there is no process group."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def gathered(value: Any) -> list[Any]:
    """On rank 0 the values of all ranks in their order; on every other rank an empty list."""
    if not _joined():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values, group=cpu_group("messages"))
    return values or []


def gathered_in_turn(values: list[Any]) -> list[Any]:
    """On rank 0 the values of all ranks in one list, on every other rank an empty one.

    Of the whole list, rank r of n has number r and every n-th after it.
    """
    shares = gathered(values)
    longest = max(map(len, shares), default=0)
    return [share[number] for number in range(longest) for share in shares if number < len(share)]


def from_first(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not _joined():
        return value
    values = [value]
    dist.broadcast_object_list(values, group=cpu_group("messages"))
    return values[0]


def wait_for_all() -> None:
    """Wait until every rank is here, up to `PATIENCE`, whatever the timeout of the training's own group."""
    if _joined():
        dist.barrier(group=cpu_group("messages"))


def _joined() -> bool:
    # A single rank sends nothing: where gloo's threads have once handled a message, libgomp counts more threads than
    # cores, and those that train sleep after every operation (11 steps a second instead of 18, on 2 cores).
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

"""Who we are among the processes of a run, as torchrun, deepspeed, mpirun and srun tell it."""

import os
import socket
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class _Place:
    """What torch.distributed reads as RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def rank() -> int:
    """This process's number, 0 without a launcher."""
    return _place().rank


def world_size() -> int:
    """How many processes the launcher started, 1 without one."""
    return _place().world_size


def local_rank() -> int:
    """This process's number on its machine, 0 without a launcher."""
    return _place().local_rank


def local_world_size() -> int:
    """How many processes of the run are on this machine, 1 without a launcher."""
    return _place().local_world_size


def export_launcher_variables() -> None:
    """Set what torch.distributed reads: mpirun's or srun's numbers, or those of a world of one where there are none.

    Under mpirun and srun MASTER_ADDR and MASTER_PORT are the user's to set; `KeyError` names the one that is missing.
    """
    if "RANK" in os.environ:
        return
    place = _place()
    if place.world_size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
        os.environ.update({name.upper(): str(number) for name, number in asdict(place).items()})
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))


def free_port() -> int:
    """A TCP port of this machine that nothing listened on when it was asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _place() -> _Place:
    """The innermost launcher's word: mpirun sets out through srun, torchrun and deepspeed are started by either."""
    given = os.environ
    if "RANK" in given or "WORLD_SIZE" in given:
        # The deepspeed launcher says LOCAL_SIZE.
        local_world_size = given.get("LOCAL_WORLD_SIZE", given.get("LOCAL_SIZE", 1))
        numbers = [given.get("RANK", 0), given.get("WORLD_SIZE", 1), given.get("LOCAL_RANK", 0), local_world_size]
    elif "OMPI_COMM_WORLD_SIZE" in given:
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        numbers = [given[f"OMPI_COMM_WORLD_{name}"] for name in names]
    elif "SLURM_STEP_NUM_TASKS" in given:
        # A batch script has SLURM_NTASKS too, though nothing was launched there. SLURM_NTASKS_PER_NODE is what was
        # asked for, if it was; GTIDS are the ranks on this node, such as "4,5,6,7".
        on_this_node = given.get("SLURM_GTIDS", "0").split(",")
        numbers = [given["SLURM_PROCID"], given["SLURM_STEP_NUM_TASKS"], given["SLURM_LOCALID"], len(on_this_node)]
    else:
        numbers = [0, 1, 0, 1]
    return _Place(*(int(number) for number in numbers))

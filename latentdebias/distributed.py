"""The ranks of this process and the number of processes, as torchrun, deepspeed, mpirun and srun state them."""

import os
import socket
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class _Place:
    """One process's place in a run; each field is the environment variable of that name in capitals."""

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


LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables from which torch.distributed knows a process's place, and which its children inherit."""


def environment_without_launcher() -> dict[str, str]:
    """This process's environment for a child that is to be a run of its own: without `LAUNCHER_VARIABLES`."""
    return {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}


def export_launcher_variables() -> None:
    """Set the environment variables that torch.distributed reads, unless RANK is set already.

    They hold mpirun's or srun's numbers; without a launcher they describe a run of one process. Under mpirun and srun
    the user sets MASTER_ADDR and MASTER_PORT; `KeyError` names the one that is missing.
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


def started_by_srun() -> bool:
    """Whether srun itself started the processes of the run, and not another launcher inside one of its tasks."""
    nearer = {"OMPI_COMM_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"}
    return "SLURM_STEP_NUM_TASKS" in os.environ and not nearer & os.environ.keys()


def free_port() -> int:
    """A TCP port of this machine that nothing listened on when it was asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _place() -> _Place:
    """This process's place as the launcher nearest to it states it.

    mpirun may start its processes through srun, and either may start torchrun or deepspeed. So the variables of
    torchrun and deepspeed are read first, then mpirun's, then srun's.
    """
    given = os.environ
    if "RANK" in given or "WORLD_SIZE" in given:
        # The deepspeed launcher sets LOCAL_SIZE in place of LOCAL_WORLD_SIZE.
        local_world_size = given.get("LOCAL_WORLD_SIZE", given.get("LOCAL_SIZE", 1))
        numbers = [given.get("RANK", 0), given.get("WORLD_SIZE", 1), given.get("LOCAL_RANK", 0), local_world_size]
    elif "OMPI_COMM_WORLD_SIZE" in given:
        names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        numbers = [given[f"OMPI_COMM_WORLD_{name}"] for name in names]
    elif "SLURM_STEP_NUM_TASKS" in given:
        # Not SLURM_NTASKS, which a batch script has too, where srun has launched nothing, and not
        # SLURM_NTASKS_PER_NODE, which is set only on request. SLURM_GTIDS are this node's ranks, such as "4,5,6,7".
        on_this_node = given.get("SLURM_GTIDS", "0").split(",")
        numbers = [given["SLURM_PROCID"], given["SLURM_STEP_NUM_TASKS"], given["SLURM_LOCALID"], len(on_this_node)]
    else:
        numbers = [0, 1, 0, 1]
    return _Place(*(int(number) for number in numbers))

"""Who we are among the processes of a run, as torchrun, deepspeed and srun tell it."""

import os
import socket

RANK_VARIABLES = ("RANK", "SLURM_PROCID")
WORLD_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS")
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID")
LOCAL_WORLD_SIZE_VARIABLES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")


def rank() -> int:
    """This process's number, 0 without a launcher."""
    return _first(RANK_VARIABLES, 0)


def world_size() -> int:
    """How many processes the launcher started, 1 without one."""
    return _first(WORLD_SIZE_VARIABLES, 1)


def local_rank() -> int:
    """This process's number on its machine, 0 without a launcher."""
    return _first(LOCAL_RANK_VARIABLES, 0)


def local_world_size() -> int:
    """How many processes of the run are on this machine, 1 without a launcher."""
    return _first(LOCAL_WORLD_SIZE_VARIABLES, 1)


def become_single_process() -> None:
    """Set the launcher's variables for a world of one, where no launcher has set them."""
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _first(variables: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in variables if name in os.environ), default)

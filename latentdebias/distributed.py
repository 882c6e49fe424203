"""Who we are among the processes of a run, as torchrun, deepspeed and srun tell it."""

import os
import socket

# srun's own count of the step's tasks: SLURM_NTASKS is set in a batch script too, where nothing was launched.
SLURM_STEP_TASKS = "SLURM_STEP_NUM_TASKS"
FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": SLURM_STEP_TASKS,
    "LOCAL_RANK": "SLURM_LOCALID",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
}


def rank() -> int:
    """This process's number, 0 without a launcher."""
    return _read("RANK", 0)


def world_size() -> int:
    """How many processes the launcher started, 1 without one."""
    return _read("WORLD_SIZE", 1)


def local_rank() -> int:
    """This process's number on its machine, 0 without a launcher."""
    return _read("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many processes of the run are on this machine, 1 without a launcher."""
    return _read("LOCAL_WORLD_SIZE", _read("LOCAL_SIZE", 1))


def export_launcher_variables() -> None:
    """Set what torch.distributed reads: srun's numbers, or those of a world of one where nothing launched us.

    Under srun MASTER_ADDR and MASTER_PORT are the user's to set; `KeyError` names the one that is missing.
    """
    if "RANK" in os.environ:
        return
    if world_size() > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ[name]
        os.environ.update(RANK=str(rank()), WORLD_SIZE=str(world_size()), LOCAL_RANK=str(local_rank()))
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _read(name: str, default: int) -> int:
    if name not in os.environ and SLURM_STEP_TASKS in os.environ:
        name = FROM_SLURM.get(name, name)
    return int(os.environ.get(name, default))

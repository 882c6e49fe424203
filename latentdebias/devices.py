"""The device that a command computes on, and what fp32 means there."""

import os

import torch

from latentdebias import distributed
from latentdebias.errors import UserError


def default_device(local_rank: int = 0) -> str:
    """This process's GPU, counted around where there are fewer GPUs than processes; `cpu` where there is none."""
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def open_device(name: str | None) -> torch.device:
    """The device `name`, tried out, or where it is None this process's `default_device`. From here on fp32 is no TF32.

    Raises `UserError` where torch has no such device.
    """
    name = name or default_device(distributed.local_rank())
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    # torch asserts on backends that it was built without.
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"--device {name!r} cannot be used here ({reason}). Legal here: {', '.join(['cpu', *gpus])}."
        ) from None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def share_cores() -> None:
    """Divide the cores among this machine's processes: forwards that fight for them are many times slower."""
    processes = distributed.local_world_size()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

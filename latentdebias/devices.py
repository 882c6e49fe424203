"""The device that a command computes on, and this process's share of the CPU cores."""

import os

import torch

from latentdebias import distributed
from latentdebias.errors import UserError


def default_device(local_rank: int = 0) -> str:
    """The name of this process's device: GPU number `local_rank` modulo the number of GPUs, or `cpu` without a GPU."""
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def open_device(name: str | None) -> torch.device:
    """Open the device `name` (None: `default_device`), and turn TF32 off, so that fp32 is computed in full precision.

    One number is put on the device to see that it works. Raises `UserError` where torch cannot use the device.
    """
    name = name or default_device(distributed.local_rank())
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    # torch raises AssertionError for a kind of device that it was built without.
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
    """Limit torch to this process's share of the machine's cores, unless OMP_NUM_THREADS is set.

    Forward passes of several processes that compete for the same cores are many times slower.
    """
    processes = distributed.local_world_size()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

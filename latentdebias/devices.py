"""The device that a command computes on, and this process's share of the CPU cores."""

import os

import torch

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.precision import set_precision


def default_device(local_rank: int = 0) -> str:
    """The name of this process's device: GPU number `local_rank` modulo the number of GPUs, or `cpu` without a GPU."""
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def open_device(name: str | None) -> torch.device:
    """Open the device `name`, on which the same computation then gives the same bits, fp32 in full precision.

    None is `default_device`, and `cuda` without a number is this process's GPU. One number is put on the device to see
    that it works. Raises `UserError` where torch cannot use the device.
    """
    ours = default_device(distributed.local_rank())
    name = name or ours
    try:
        device = torch.device(ours if name == "cuda" and torch.cuda.is_available() else name)
        torch.ones(1, device=device).item()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    # torch raises AssertionError for a kind of device that it was built without.
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"--device {name!r} cannot be used here ({reason}). Legal here: "
            f"{', '.join(['cpu', *(['cuda'] if gpus else []), *gpus])}."
        ) from None
    set_precision("fp32")
    # Else cuDNN may choose another algorithm on the next run.
    torch.backends.cudnn.deterministic = True
    return device


def share_cores() -> None:
    """Limit torch to this process's share of the machine's cores, unless OMP_NUM_THREADS is set.

    Forward passes of several processes that compete for the same cores are many times slower.
    """
    processes = distributed.local_world_size()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

"""The device that a command computes on, and this process's share of the CPU cores."""

import ctypes
import os
from pathlib import Path

import torch

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.precision import set_precision

# Options of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def default_device(local_rank: int = 0) -> str:
    """The name of this process's device: GPU number `local_rank`, the only GPU that it sees, or `cpu` without a GPU.

    A launcher may show each process one GPU of its own. Raises `UserError` where there are several GPUs, and fewer than
    processes.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > 1 and local_rank >= gpus:
        raise UserError(
            f"{distributed.local_world_size()} processes were started on this machine, which has {gpus} GPUs, so some "
            f"would share one; start at most {gpus}, as torchrun --nproc_per_node gpu does."
        )
    return f"cuda:{local_rank if gpus > 1 else 0}" if gpus else "cpu"


def open_device(name: str | None) -> torch.device:
    """Open the device `name`, on which the same computation then gives the same bits, fp32 in full precision.

    None is `default_device`, and `cuda` without a number is this process's GPU. One number is put on the device to see
    that it works. Raises `UserError` where torch cannot use the device.
    """
    if name is None or (name == "cuda" and torch.cuda.is_available()):
        name = default_device(distributed.local_rank())
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
            f"--device {name!r} cannot be used here ({reason}). Legal here: "
            f"{', '.join(['cpu', *(['cuda'] if gpus else []), *gpus])}."
        ) from None
    set_precision("fp32")
    if device.type == "cpu":
        keep_freed_memory()
    # Else cuDNN may choose another algorithm on the next run.
    torch.backends.cudnn.deterministic = True
    return device


def compute_deterministically() -> None:
    """Let this process use on a GPU only algorithms that give the same bits each time; torch raises where it has none.

    So flash and memory-efficient attention sum their gradients in one order, cuDNN's attention is not used, and cuBLAS
    has a workspace of fixed size, which it reads from the environment at its first product.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Else every torch.empty is filled, DeepSpeed's buckets among them.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, so that the next tensor on the CPU takes it as it is.

    glibc returns what is freed of 32 MB and more to the kernel, which then clears fresh pages for each such tensor.
    Under another C library nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def share_cores() -> None:
    """Limit torch to this process's share of the machine's cores, unless OMP_NUM_THREADS is set.

    Processes that compete for the same cores are many times slower. The rule is the same under every launcher: torchrun
    exports OMP_NUM_THREADS=1 where the user has set none, and that does not count as set.
    """
    processes = distributed.local_world_size()
    if processes > 1 and not _user_sets_threads():
        torch.set_num_threads(max(1, _usable_cores() // processes))


def _user_sets_threads() -> bool:
    environment = Path(f"/proc/{os.getppid()}/environ")
    if "TORCHELASTIC_RUN_ID" in os.environ and environment.exists():
        # The parent is torchrun, whose own environment is the user's.
        return b"\0OMP_NUM_THREADS=" in b"\0" + environment.read_bytes()
    return "OMP_NUM_THREADS" in os.environ


def _usable_cores() -> int:
    """The cores that this process may run on; under `srun --cpus-per-task`, as many for each process of the machine.

    Where a task of srun is torchrun or deepspeed, the cores are those of the task, which its processes share.
    """
    if "SLURM_CPUS_PER_TASK" in os.environ and distributed.started_by_srun():
        return int(os.environ["SLURM_CPUS_PER_TASK"]) * distributed.local_world_size()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

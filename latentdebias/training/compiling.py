"""Whether a run compiles its blocks and which attention kernels it may use, by the config and by the machine."""

import os
import shutil
from typing import Literal

import torch
from torch import nn
from torch.utils._triton import has_triton

from latentdebias.backbones.blocks import Where, find_blocks
from latentdebias.errors import UserError

Compile = Literal["auto", "none", "blocks"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]

KERNELS = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}
"""The kernels of torch's `scaled_dot_product_attention`, and the functions that allow them or not in this process."""


def what_to_compile(
    asked: Compile, backbone: nn.Module, device: torch.device, deterministic: bool, why_not: str | None
) -> tuple[Where, str]:
    """What a run on `device` compiles where the config asks for `asked`, and the reason, in words for the log.

    "auto" compiles the blocks of a network on a GPU that Triton has code for. `why_not` is what else is against it.
    """
    if asked != "auto":
        return asked, f"training.compile is {asked}"
    against = {
        "the run is on a CPU, where compiling the blocks pays in long runs only": device.type != "cuda",
        "training.deterministic asks for the same bits each time": deterministic,
        f"{type(backbone).__name__} names no repeated blocks": not find_blocks(backbone),
        "Triton is not installed, or has no code for this GPU": device.type == "cuda" and not has_triton(),
        "Triton needs a C compiler, and none is found: install gcc, or set CC": not _has_c_compiler(),
        f"{why_not}": why_not is not None,
    }
    reasons = [reason for reason, holds in against.items() if holds]
    return ("none", reasons[0]) if reasons else ("blocks", "Triton has code for this GPU")


def _has_c_compiler() -> bool:
    named = os.environ.get("CC")
    return any(shutil.which(name) for name in ([named] if named else ["cc", "gcc", "clang"]))


def allow_attention(kernel: Attention) -> None:
    """Let this process use one attention kernel alone, or with "auto" any of those that torch chooses from.

    Where the one kernel cannot compute an attention of the network, torch raises an error at the first step. "cudnn"
    and "efficient" raise `UserError` without a GPU.
    """
    if kernel in ("cudnn", "efficient") and not torch.cuda.is_available():
        raise UserError(
            f"training.attention is {kernel!r}, a kernel for GPUs, and there is none here; choose auto, flash or math."
        )
    for name, allow in KERNELS.items():
        allow(kernel in ("auto", name))

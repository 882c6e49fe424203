"""The peak FLOP/s of a device, for utilisation: from the config, the vendor's data sheet, or a measurement."""

import functools
import re
import time
from dataclasses import dataclass

import torch

from latentdebias.precision import Precision, computing_in

SECONDS = 0.25
SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Gpu:
    """A GPU's dense peaks in TFLOP/s (no sparsity), with `pattern` found in what torch calls its name.

    bf16 accumulates in fp32; tf32 is the fp32 peak again where there are no such units.
    """

    pattern: str
    bf16: float
    tf32: float
    fp32: float


# Data sheets print many of these with sparsity, which doubles them; here they are halved where that is so.
GPUS: dict[str, Gpu] = {
    # NVIDIA V100 data sheet (2020): SXM2. It has no bf16 units; that is the peak of its fp16 ones.
    "v100": Gpu(r"V100-SXM", 125, 15.7, 15.7),
    "v100-pcie": Gpu(r"V100-PCIE", 112, 14, 14),
    # NVIDIA A100 data sheet (2021), SXM and PCIe alike.
    "a100": Gpu(r"A100", 312, 156, 19.5),
    # NVIDIA A10 data sheet (2021).
    "a10": Gpu(r"A10\b", 125, 62.5, 31.2),
    # NVIDIA L4 data sheet (2023).
    "l4": Gpu(r"L4\b", 121, 60, 30.3),
    # NVIDIA L40S data sheet (2023).
    "l40s": Gpu(r"L40S", 362, 183, 91.6),
    # NVIDIA Ampere GA102 whitepaper (2021), RTX 3090; bf16 with fp32 accumulation.
    "rtx3090": Gpu(r"RTX 3090$", 71, 35.6, 35.6),
    # NVIDIA Ada whitepaper (2023), appendix A; the same.
    "rtx4090": Gpu(r"RTX 4090$", 165.2, 82.6, 82.6),
    # NVIDIA RTX Blackwell whitepaper (2025), appendix A; the same.
    "rtx5090": Gpu(r"RTX 5090$", 209.5, 104.8, 104.8),
    # NVIDIA H100 data sheet (2023): SXM5, PCIe, NVL.
    "h100": Gpu(r"H100 .*HBM3", 989.5, 494.7, 67),
    "h100-pcie": Gpu(r"H100 PCIe", 756.5, 378, 51),
    "h100-nvl": Gpu(r"H100 NVL", 835.5, 417.5, 60),
    # NVIDIA H200 data sheet (2024): SXM, NVL.
    "h200": Gpu(r"H200$", 989.5, 494.7, 67),
    "h200-nvl": Gpu(r"H200 NVL", 835.5, 417.5, 60),
    # NVIDIA HGX B200 data sheet (2024), an eighth of the board.
    "b200": Gpu(r"B200$", 2250, 1125, 75),
    # AMD Instinct MI250X data sheet (2021), a half of the card: torch counts its two dies as two devices.
    "mi250x": Gpu(r"MI250X", 191.5, 47.9, 47.9),
    # AMD Instinct MI300X data sheet (2023).
    "mi300x": Gpu(r"MI300X", 1307.4, 653.7, 163.4),
}


@dataclass(frozen=True)
class Peak:
    """Operations a second of one rank's device, and where the figure is from."""

    flops: float
    origin: str


def peak_of(gpu: Gpu, precision: Precision) -> float:
    """FLOP/s of a GPU in the table that computes in `precision`."""
    return 1e12 * {"bf16": gpu.bf16, "tf32": gpu.tf32, "fp32": gpu.fp32}[precision]


def find_peak(device: torch.device, precision: Precision, stated_tflops: float | None) -> Peak:
    """The peak that the config states, else the table's, else a measured one, which takes a quarter of a second."""
    if stated_tflops is not None:
        return Peak(1e12 * stated_tflops, "training.peak_tflops")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    gpu = find_gpu(name)
    if gpu is not None:
        return Peak(peak_of(gpu, precision), f"data sheet of {name}")
    return Peak(measured_peak(device, precision), f"measured on this {name} by a matrix product")


def find_gpu(device_name: str) -> Gpu | None:
    """The GPU that torch calls `device_name`; None where the table has none, and for a MIG slice, a part of one."""
    if re.search(r"\bMIG\b", device_name):
        return None
    return next((gpu for gpu in GPUS.values() if re.search(rf"\b{gpu.pattern}", device_name)), None)


@functools.cache
def measured_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the device in one large matrix product, repeated for a quarter of a second."""
    side = SIDE.get(device.type, SIDE["cpu"])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with computing_in(precision):
        _multiply(left, right)
        products, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < SECONDS:
            _multiply(left, right)
            products += 1
    return products * 2 * side**3 / seconds


def _multiply(left: torch.Tensor, right: torch.Tensor) -> None:
    product = left @ right
    if product.is_cuda:
        torch.cuda.synchronize(product.device)

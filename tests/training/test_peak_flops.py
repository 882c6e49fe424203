"""Which peak a utilisation is a share of."""

import time
from typing import get_args

import pytest
import torch

from latentdebias.precision import Precision
from latentdebias.training.monitor import peak_flops
from latentdebias.training.monitor.peak_flops import GPUS, find_gpu, find_peak, peak_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device_name", "gpu"),
    [
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI250X", "mi250x"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_gpu_is_known_by_the_name_that_torch_gives(device_name, gpu):
    assert find_gpu(device_name) is GPUS[gpu]


@pytest.mark.parametrize(
    "device_name",
    [
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ],
)
def test_a_relative_or_a_slice_of_a_gpu_is_not_taken_for_it(device_name):
    assert find_gpu(device_name) is None


def test_every_gpu_is_faster_in_fewer_bits():
    assert all(gpu.bf16 > gpu.tf32 >= gpu.fp32 for gpu in GPUS.values())


def test_the_peak_is_that_of_the_precision():
    assert [peak_of(GPUS["a100"], precision) for precision in ("fp32", "tf32", "bf16")] == [19.5e12, 156e12, 312e12]


@pytest.mark.parametrize("precision", get_args(Precision))
def test_an_unknown_device_is_measured_in_the_precision(monkeypatch, precision):
    found = []

    def multiply(left, right):
        found.append((left.dtype, torch.backends.cuda.matmul.allow_tf32))
        time.sleep(0.1)

    monkeypatch.setattr(peak_flops, "_multiply", multiply)
    peak_flops.measured_peak.cache_clear()
    find_peak(CPU, precision, None)
    peak_flops.measured_peak.cache_clear()
    assert set(found) == {(torch.bfloat16 if precision == "bf16" else torch.float32, precision == "tf32")}


def test_an_unknown_device_is_measured_and_said_to_be():
    peak = find_peak(CPU, "fp32", None)
    assert 1e8 < peak.flops < 1e14
    assert "measured" in peak.origin


def test_a_stated_peak_goes_before_all():
    assert find_peak(CPU, "bf16", 2.5).flops == 2.5e12

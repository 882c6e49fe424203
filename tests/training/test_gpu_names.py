"""DeepSpeed reads the entries of CUDA_VISIBLE_DEVICES as numbers; they may be names of GPUs or of MIG slices."""

from types import SimpleNamespace

import pytest
from deepspeed.accelerator import cuda_accelerator

from latentdebias.training.engine import allow_gpu_names


@pytest.fixture
def accelerator(monkeypatch):
    """DeepSpeed's view of CUDA with a pynvml that it has initialised."""
    accelerator = cuda_accelerator.CUDA_Accelerator()
    monkeypatch.setattr(cuda_accelerator, "pynvml", SimpleNamespace(nvmlDeviceGetHandleByIndex=None))
    monkeypatch.setattr(accelerator, "total_memory", lambda index: 80)
    monkeypatch.setattr(accelerator, "memory_allocated", lambda index: 10)
    return accelerator


@pytest.mark.parametrize("names", ["GPU-8f2ea6ac-0d3c", "MIG-41c73a11-77b2,MIG-09d1f1b4-5c2e"])
def test_memory_is_asked_of_torch_where_gpus_are_named(accelerator, monkeypatch, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    with pytest.raises(ValueError, match="invalid literal for int"):
        accelerator.available_memory(0)
    allow_gpu_names()
    assert accelerator.available_memory(0) == 70


@pytest.mark.parametrize("numbers", [None, "0", "2, 3"])
def test_nvml_stays_where_gpus_are_numbered(accelerator, monkeypatch, numbers):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if numbers:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", numbers)
    allow_gpu_names()
    assert cuda_accelerator.pynvml is not None

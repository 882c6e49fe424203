"""Training loops without this package's trainer, written from what the published ones are said to do.

The plain loop is that of DiT (Peebles & Xie 2022) and its faster single-GPU variants: latents encoded beforehand, one
.npy file a sample through a DataLoader, autocast, AdamW as torch builds it, an average kept parameter by parameter, and
the loss read back at every step.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from latentdebias.backbones.blocks import checkpoint_blocks
from latentdebias.backbones.dit import DiTSpec
from latentdebias.commands.bench.loops.workload import RunSteps, Workload
from latentdebias.commands.bench.measuring.table import LeftOut
from latentdebias.commands.bench.shards import NUM_CLASSES
from latentdebias.errors import pip_install
from latentdebias.precision import set_precision

TIMESTEPS = 1000
LR = 1e-4


class ArrayFolder(Dataset[tuple[Tensor, int]]):
    """Latents (C, h, w) fp32 and their labels, each latent in a .npy file of its own."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(np.load(self.files[index])).float(), index % NUM_CLASSES


def _loader(workload: Workload) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        ArrayFolder(workload.arrays),
        workload.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workload.workers,
        pin_memory=workload.device.type == "cuda",
    )


@contextmanager
def bare(workload: Workload) -> Iterator[RunSteps]:
    """Forward, backward, clipping and fused AdamW of the model on one fixed batch: the floor of every trainer."""
    device, size = workload.device, workload.batch_size
    set_precision(workload.precision)
    backbone = workload.backbone()
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, LR, weight_decay=0.0, fused=True)
    z = torch.randn(size, *workload.latent_shape, device=device)
    t = torch.rand(size, device=device) * TIMESTEPS
    y = torch.arange(size, device=device) % NUM_CLASSES

    def steps(count: int) -> None:
        for _ in range(count):
            with workload.autocast():
                loss = mse_loss(backbone(z, t, y).float(), z)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            adamw.step()
            adamw.zero_grad()

    yield steps


@contextmanager
def plain(workload: Workload, checkpointing: bool = False) -> Iterator[RunSteps]:
    """The plain loop: the same network, eager, with gradient checkpointing of each block where it is on."""
    device = workload.device
    set_precision(workload.precision)
    backbone = workload.backbone()
    average = copy.deepcopy(backbone).requires_grad_(False)
    if checkpointing:
        checkpoint_blocks(backbone)
    adamw = torch.optim.AdamW(backbone.parameters(), LR, weight_decay=0.0)
    alphas_cumprod = torch.linspace(1e-4, 0.02, TIMESTEPS, device=device).neg().add(1).cumprod(0)
    batches = (batch for _ in itertools.count() for batch in _loader(workload))

    def steps(count: int) -> None:
        for x0, y in itertools.islice(batches, count):
            x0, y = x0.to(device), y.to(device)
            t = torch.randint(TIMESTEPS, (len(x0),), device=device)
            eps = torch.randn_like(x0)
            alpha_bar = alphas_cumprod[t][:, None, None, None]
            z = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
            with workload.autocast():
                prediction = backbone(z, t.float(), y)
            loss = mse_loss(prediction.float(), eps)
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            with torch.no_grad():
                for kept, weight in zip(average.parameters(), backbone.parameters(), strict=True):
                    kept.mul_(0.9999).add_(weight, alpha=1 - 0.9999)
            loss.item()

    yield steps


@contextmanager
def accelerate_diffusers(workload: Workload) -> Iterator[RunSteps]:
    """diffusers' `DiTTransformer2DModel` of the same size in an accelerate loop, with diffusers' scheduler and average.

    Raises `LeftOut` for a model that diffusers has not, and where accelerate is not installed.
    """
    spec = workload.network().spec
    if not isinstance(spec, DiTSpec) or spec != DiTSpec(
        width=spec.width, depth=spec.depth, heads=spec.heads, patch_size=spec.patch_size
    ):
        raise LeftOut(f"diffusers has no network {workload.model}")
    try:
        from accelerate import Accelerator
    except ImportError:
        raise LeftOut(f"accelerate is not installed: {pip_install('bench')}") from None
    from diffusers import DDPMScheduler, DiTTransformer2DModel
    from diffusers.training_utils import EMAModel

    channels, side, _ = workload.latent_shape
    set_precision(workload.precision)
    accelerator = Accelerator(
        mixed_precision="bf16" if workload.precision == "bf16" else "no", cpu=workload.device.type == "cpu"
    )
    backbone: Any = DiTTransformer2DModel(
        num_attention_heads=spec.heads,
        attention_head_dim=spec.width // spec.heads,
        in_channels=channels,
        num_layers=spec.depth,
        sample_size=side,
        patch_size=spec.patch_size,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    backbone, adamw, loader = accelerator.prepare(
        backbone, torch.optim.AdamW(backbone.parameters(), LR, weight_decay=0.0), _loader(workload)
    )
    average = EMAModel(backbone.parameters(), 0.9999)
    scheduler: Any = DDPMScheduler(TIMESTEPS, beta_schedule="linear")
    batches = (batch for _ in itertools.count() for batch in loader)

    def steps(count: int) -> None:
        for x0, y in itertools.islice(batches, count):
            t = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
            eps = torch.randn_like(x0)
            prediction = backbone(scheduler.add_noise(x0, eps, t), timestep=t, class_labels=y).sample
            loss = mse_loss(prediction.float(), eps)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(backbone.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()
            average.step(backbone.parameters())
            loss.item()

    yield steps

"""`latentdebias bench sample`: guided sampling as `latentdebias sample` does it, against a plain loop."""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from latentdebias.autoencoders import Autoencoder, load_autoencoder, to_uint8
from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.commands.bench.encode import RANDOM_SD, random_sd
from latentdebias.commands.terminal import table
from latentdebias.devices import open_device
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import ImageSampler, labels_in_turn
from latentdebias.sampling import DrawOptions, LatentModel, Network

NUM_CLASSES = 1000


@dataclass(frozen=True)
class PlainLoop:
    """Guided DDIM as a plain script does it, for comparison.

    Each step takes two forward passes and reads one value back for the progress bar; decoding follows the last step.
    """

    sampler: ImageSampler
    options: DrawOptions

    @torch.no_grad()
    def draw(self, labels: Tensor) -> None:
        for chunk in labels.to(self.sampler.autoencoder.device).split(self.options.batch_size):
            z = self._denoise(chunk)
            to_uint8(self.sampler.autoencoder.decode(self.sampler.normalization.denormalize(z))).cpu()

    def _denoise(self, labels: Tensor) -> Tensor:
        scheduler: Any = DDIMScheduler(beta_schedule="linear", timestep_spacing="trailing")
        scheduler.set_timesteps(self.options.steps, device=labels.device)
        z = torch.randn(len(labels), *self.sampler.model.latent_shape, device=labels.device)
        null = torch.full_like(labels, NUM_CLASSES)
        with tqdm(scheduler.timesteps, desc="plain loop", leave=False) as steps:
            for t in steps:
                time = t.expand(len(z)).float()
                with torch.autocast(z.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
                    conditional = self.sampler.model.network.backbone(z, time, labels).float()
                    unconditional = self.sampler.model.network.backbone(z, time, null).float()
                eps = unconditional + self.options.guidance.scale * (conditional - unconditional)
                z = scheduler.step(eps, t, z).prev_sample
                steps.set_postfix(std=z.std().item())
        return z


def bench_sample(options: argparse.Namespace) -> None:
    """Print images/s of the plain loop and of this package's sampler, medians over the rounds, and their ratio."""
    device = open_device(options.device)
    drawing = DrawOptions(steps=options.steps, batch_size=options.batch_size, precision=options.precision)
    labels = labels_in_turn(list(range(NUM_CLASSES)), options.num)
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_sd(Path(folder), device) if options.vae == RANDOM_SD else None
        sampler = _sampler(options, autoencoder or load_autoencoder(options.vae, device))
    ways: dict[str, Callable[[], object]] = {
        "plain loop": lambda: PlainLoop(sampler, drawing).draw(labels),
        "latentdebias": lambda: list(sampler.draw(labels, drawing)),
    }
    if options.compile:
        compiled = sampler.compiled()
        ways["latentdebias, compiled"] = lambda: list(compiled.draw(labels, drawing))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for draw in ways.values():
        _seconds(draw, device)  # kernels are chosen, and compiled, at the first call
    for _ in range(options.rounds):
        for name, draw in ways.items():
            seconds[name].append(_seconds(draw, device))
    _print_table(seconds, options.num)


def _sampler(options: argparse.Namespace, autoencoder: Autoencoder) -> ImageSampler:
    channels, device = autoencoder.identity.channels, autoencoder.device
    backbone = BACKBONES.build(options.backbone).build(options.latent_size, channels, NUM_CLASSES)
    shape = (channels, options.latent_size, options.latent_size)
    normalization = LatentNormalization((0.0,) * channels, (1.0,) * channels)
    diffusion = Diffusion("linear", "eps")
    model = LatentModel(Network(backbone.to(device).eval(), diffusion), shape, NUM_CLASSES)
    return ImageSampler(model, normalization, autoencoder)


def _seconds(draw: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    draw()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _print_table(seconds: dict[str, list[float]], num: int) -> None:
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    rows = [["", "images/s", "slowest", "fastest", "x plain"]]
    for name, times in seconds.items():
        rates = [f"{num / each:.3f}" for each in (medians[name], max(times), min(times))]
        rows.append([name, *rates, f"{medians['plain loop'] / medians[name]:.2f}"])
    print(table(rows))

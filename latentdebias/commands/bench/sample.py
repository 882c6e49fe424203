"""`latentdebias bench sample`: guided sampling as `latentdebias sample` does it, against a plain loop."""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DDIMScheduler, HeunDiscreteScheduler
from torch import Tensor
from tqdm import tqdm

from latentdebias.autoencoders import Autoencoder, load_autoencoder, to_uint8
from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.commands.bench.encode import RANDOM_SD, random_sd
from latentdebias.commands.bench.measuring.table import Table, check_json
from latentdebias.commands.bench.measuring.timing import in_turns
from latentdebias.devices import open_device
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import ImageSampler, labels_in_turn
from latentdebias.sampling import SAMPLERS, DrawOptions, LatentModel, Network

NUM_CLASSES = 1000


# diffusers' schedulers of the plain loop, each beside the sampler of this package that does the same.
SCHEDULERS: dict[str, Any] = {
    "ddim": lambda: DDIMScheduler(beta_schedule="linear", timestep_spacing="trailing"),
    "heun": lambda: HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
}


@dataclass(frozen=True)
class PlainLoop:
    """Guided sampling as a plain script does it, for comparison.

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
        scheduler = SCHEDULERS[SAMPLERS.name_of(self.options.sampler)]()
        scheduler.set_timesteps(self.options.steps, device=labels.device)
        z = torch.randn(len(labels), *self.sampler.model.latent_shape, device=labels.device)
        z = z * scheduler.init_noise_sigma
        null = torch.full_like(labels, NUM_CLASSES)
        with tqdm(scheduler.timesteps, desc="plain loop", leave=False) as steps:
            for t in steps:
                time = t.expand(len(z)).float()
                scaled = scheduler.scale_model_input(z, t)
                with torch.autocast(z.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
                    conditional = self.sampler.model.network.backbone(scaled, time, labels).float()
                    unconditional = self.sampler.model.network.backbone(scaled, time, null).float()
                eps = unconditional + self.options.guidance.scale * (conditional - unconditional)
                z = scheduler.step(eps, t, z).prev_sample
                steps.set_postfix(std=z.std().item())
        return z


def bench_sample(options: argparse.Namespace) -> None:
    """Report images/s of the plain loop and of this package's sampler, in turns, and their ratios."""
    check_json(options.json)
    device = open_device(options.device)
    drawing = DrawOptions(
        sampler=SAMPLERS.build(options.sampler),
        steps=options.steps,
        batch_size=options.batch_size,
        precision=options.precision,
    )
    labels = labels_in_turn(list(range(NUM_CLASSES)), options.num)
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = random_sd(Path(folder), device) if options.vae == RANDOM_SD else None
        sampler = _sampler(options, autoencoder or load_autoencoder(options.vae, device))
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: PlainLoop(sampler, drawing).draw(labels),
        "latentdebias": lambda: list(sampler.draw(labels, drawing)),
    }
    if options.interval:
        within = replace(drawing, guidance=replace(drawing.guidance, interval=tuple(options.interval)))
        ways[f"latentdebias, guided in {options.interval}"] = lambda: list(sampler.draw(labels, within))
    if options.compile:
        compiled = sampler.compiled()
        ways["latentdebias, compiled"] = lambda: list(compiled.draw(labels, drawing))
    for draw in ways.values():
        draw()  # kernels are chosen, and compiled, at the first call
    times = in_turns(ways, options.rounds, device)
    table = Table(
        f"{options.backbone}, {options.steps} steps of {options.sampler}, guided, {options.num} images in batches of "
        f"{options.batch_size}, {options.precision}, {device}"
    )
    for name, values in times.items():
        table.add(name, [options.num / each.wall for each in values], "images/s")
    for name in list(ways)[1:]:
        table.add_ratio(f"{name} / plain", [each.wall for each in times["plain"]], [each.wall for each in times[name]])
        if device.type == "cpu":
            plain, ours = ([each.cpu for each in times[way]] for way in ("plain", name))
            table.add_ratio(f"{name} / plain, CPU time", plain, ours)
    table.report(options.json)


def _sampler(options: argparse.Namespace, autoencoder: Autoencoder) -> ImageSampler:
    channels, device = autoencoder.identity.channels, autoencoder.device
    backbone = BACKBONES.build(yaml.safe_load(options.backbone)).build(options.latent_size, channels, NUM_CLASSES)
    shape = (channels, options.latent_size, options.latent_size)
    normalization = LatentNormalization((0.0,) * channels, (1.0,) * channels)
    diffusion = Diffusion("linear", "eps")
    model = LatentModel(Network(backbone.to(device).eval(), diffusion), shape, NUM_CLASSES)
    return ImageSampler(model, normalization, autoencoder)

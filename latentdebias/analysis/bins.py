"""What weightings weigh in equal bins of the schedule, and the bins' gradients with their uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.diffusion import WEIGHTINGS, NoiseLevel, Schedule, Weighting
from latentdebias.diffusion.pareto.bins import X0, Latents, bin_gradient, inner_products, timesteps_in, x0_errors
from latentdebias.evaluation.protocol.intervals import QUANTILE
from latentdebias.models.model_directory import LoadedModel


def inside_levels(schedule: Schedule) -> tuple[Tensor, NoiseLevel]:
    """The timesteps (T,) of the schedule's grid at which neither alpha nor sigma is 0, and their levels, fp64."""
    grid = schedule.grid()
    level = schedule.level_and_rate(grid, torch.float64)
    inside = (level.alpha > 0) & (level.sigma > 0)
    beta, rate = (None if part is None else part[inside] for part in (level.beta, level.rate))
    return grid[inside], NoiseLevel(level.alpha[inside], level.sigma[inside], beta, rate)


def fixed_weightings() -> list[Weighting]:
    """Every weighting of the package at its default options, except `pareto`, which training solves."""
    return [WEIGHTINGS.build(name) for name in WEIGHTINGS.names() if name != "pareto"]


def bin_weights(weighting: Weighting, schedule: Schedule, bins: int) -> Tensor:
    """The mean weight on the squared error of x0 in each bin, scaled to sum 1: (bins,) fp64."""
    t, level = inside_levels(schedule)
    weight = weighting.weight_of_target(X0, level)
    number = (schedule.to_unit(t.double()) * bins).long().clamp(max=bins - 1)
    totals = torch.zeros(2, bins, dtype=torch.float64)
    totals.index_add_(1, number, torch.stack([weight, torch.ones_like(weight)]))
    means = totals[0] / totals[1]
    return means / means.sum()


@torch.no_grad()
def losses_by_bin(model: LoadedModel, latents: Latents, bins: int, batch_size: int) -> Tensor:
    """The squared error of x0 of each latent, at a timestep of its own in each bin: (bins, N) fp64, on the CPU."""
    rows = []
    for number in range(bins):
        t = timesteps_in(model.diffusion, number, bins, len(latents)).to(latents.x0.device)
        parts = zip(latents.chunks(batch_size), t.split(batch_size), strict=True)
        rows.append(torch.cat([x0_errors(model, part, times) for part, times in parts]).cpu())
    return torch.stack(rows)


@dataclass(frozen=True)
class BinGradients:
    """The inner products of the gradients of B bins, each from K blocks of the images apart: `products` (K, B, K, B).

    A block has every K-th image. The gradient of a bin over all images is the mean of its blocks' gradients.
    """

    products: Tensor

    @classmethod
    def of(cls, model: LoadedModel, latents: Latents, bins: int, blocks: int, batch_size: int) -> "BinGradients":
        """The gradients of the squared error of x0, with one noise and one timestep a bin for each image."""
        gradients = []
        pairs = [(block, number) for block in range(blocks) for number in range(bins)]
        for block, number in tqdm(pairs, desc="gradients", unit="bin"):
            part = slice(block, None, blocks)
            t = timesteps_in(model.diffusion, number, bins, len(latents))[part]
            gradients.append(bin_gradient(model, latents.part(part), t, batch_size).cpu())
        return cls(inner_products(gradients).view(blocks, bins, blocks, bins))

    def gram(self, without: int | None = None) -> Tensor:
        """The inner products (B, B) of the bins' gradients over all images, or over those of all blocks but one."""
        kept = [block for block in range(len(self.products)) if block != without]
        return self.products[kept][:, :, kept].mean(dim=(0, 2))

    def estimate(self, measure: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """`measure` of the Gram matrix, and the ends of its 95% interval by the jackknife over blocks (Tukey 1958)."""
        blocks = len(self.products)
        value = measure(self.gram())
        others = torch.stack([measure(self.gram(without=block)) for block in range(blocks)])
        variance = ((others - others.mean(dim=0)) ** 2).sum(dim=0) * (blocks - 1) / blocks
        margin = QUANTILE * variance.sqrt()
        return value, value - margin, value + margin


def cosines(gram: Tensor) -> Tensor:
    """The cosines (B, B) between gradients whose inner products are `gram` (B, B)."""
    norms = gram.diagonal().sqrt()
    return gram / (norms[:, None] * norms[None])

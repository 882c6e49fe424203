"""Equal bins of the schedule: their timesteps, weights, and the gradient of the x0 loss in each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.errors_by_t import QUANTILE, X0, factor_to, target_errors
from latentdebias.analysis.inputs import Latents
from latentdebias.diffusion import Diffusion, NoiseLevel, Schedule, Weighting
from latentdebias.models.model_directory import LoadedModel

GOLDEN = (5**0.5 - 1) / 2
COLUMNS_AT_ONCE = 1 << 20


def inside_levels(schedule: Schedule) -> tuple[Tensor, NoiseLevel]:
    """The timesteps (T,) of the schedule's grid at which neither alpha nor sigma is 0, and their levels, fp64."""
    grid = schedule.grid()
    level = schedule.level_and_rate(grid, torch.float64)
    inside = (level.alpha > 0) & (level.sigma > 0)
    beta, rate = (None if part is None else part[inside] for part in (level.beta, level.rate))
    return grid[inside], NoiseLevel(level.alpha[inside], level.sigma[inside], beta, rate)


def bin_weights(weighting: Weighting, schedule: Schedule, bins: int) -> Tensor:
    """The mean weight on the squared error of x0 in each bin, scaled to sum 1: (bins,) fp64."""
    t, level = inside_levels(schedule)
    weight = weighting.weight_of_target(X0, level)
    number = (schedule.to_unit(t.double()) * bins).long().clamp(max=bins - 1)
    totals = torch.zeros(2, bins, dtype=torch.float64)
    totals.index_add_(1, number, torch.stack([weight, torch.ones_like(weight)]))
    means = totals[0] / totals[1]
    return means / means.sum()


def timesteps_in(diffusion: Diffusion, number: int, bins: int, count: int) -> Tensor:
    """Timesteps (count,) in bin `number` of `bins`: any stretch of them is spread evenly over the bin."""
    within = ((torch.arange(count, dtype=torch.float64) + 0.5) * GOLDEN) % 1
    return diffusion.schedule.from_unit((number + within) / bins)


def x0_errors(model: LoadedModel, latents: Latents, t: Tensor) -> Tensor:
    """The squared error of the x0 that the network means at timesteps t (B,): (B,) fp64, with gradients."""
    return target_errors(model, latents, t) * factor_to(X0, model.diffusion, t)


def bin_gradient(model: LoadedModel, latents: Latents, t: Tensor, batch_size: int) -> Tensor:
    """The gradient (P,) fp32 of the mean squared error of x0 over all `latents` at timesteps t (N,)."""
    weights = [each for each in model.backbone.parameters() if each.requires_grad]
    total = [torch.zeros_like(each) for each in weights]
    for part, times in zip(latents.chunks(batch_size), t.to(latents.x0.device).split(batch_size), strict=True):
        loss = x0_errors(model, part, times).sum() / len(latents)
        for sums, each in zip(total, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True):
            sums += each
    return torch.cat([each.flatten() for each in total])


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


def inner_products(gradients: Sequence[Tensor]) -> Tensor:
    """The inner products (M, M) fp64 of M gradients (P,)."""
    rows = torch.stack(list(gradients))
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(COLUMNS_AT_ONCE, dim=1):
        wide = columns.double()
        total += wide @ wide.T
    return total


def cosines(gram: Tensor) -> Tensor:
    """The cosines (B, B) between gradients whose inner products are `gram` (B, B)."""
    norms = gram.diagonal().sqrt()
    return gram / (norms[:, None] * norms[None])

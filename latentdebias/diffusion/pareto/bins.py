"""Equal bins of the schedule as tasks: their timesteps, and the gradient of the squared error of x0 in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from latentdebias.diffusion.process import Diffusion
from latentdebias.diffusion.targets import TARGETS, Target

EPS, X0 = TARGETS.build("eps"), TARGETS.build("x0")
GOLDEN = (5**0.5 - 1) / 2
COLUMNS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Latents:
    """N latents of unit scale with the noise to add to them: `x0` and `eps` (N, C, h, w), `labels` (N,) or None."""

    x0: Tensor
    eps: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.x0)

    def part(self, rows: Tensor | slice) -> "Latents":
        """The latents in `rows`."""
        return Latents(self.x0[rows], self.eps[rows], None if self.labels is None else self.labels[rows])

    def chunks(self, size: int) -> list["Latents"]:
        """The latents in their order, `size` at a time."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self), size)]


class Model(Protocol):
    """A network and the diffusion process that says how to ask it."""

    @property
    def backbone(self) -> nn.Module: ...

    @property
    def diffusion(self) -> Diffusion: ...


def target_errors(model: Model, latents: Latents, t: Tensor) -> Tensor:
    """The squared error of the network's target at timesteps t (B,), mean over elements: (B,) fp64.

    Gradients of the network's weights flow through it.
    """
    diffusion, x0, eps = model.diffusion, latents.x0.double(), latents.eps.double()
    z = diffusion.add_noise(x0, eps, t)
    output = model.backbone(diffusion.model_input(z, t).float(), diffusion.model_time(t).float(), latents.labels)
    prediction, _ = diffusion.variance.split(output.double(), z)
    return ((prediction - diffusion.target_of(x0, eps, t)) ** 2).flatten(1).mean(dim=1)


def factor_to(space: Target, diffusion: Diffusion, t: Tensor) -> Tensor:
    """What a squared error of the network's target at t (B,) is multiplied by to be that of `space`: (B,) fp64.

    At a fixed z_t it is (det_space / det_target)^2 (see `latentdebias.diffusion.targets`).
    """
    level = diffusion.schedule.level(t, torch.float64)
    return diffusion.target.error_ratio(space, level)


def x0_errors(model: Model, latents: Latents, t: Tensor) -> Tensor:
    """The squared error of the x0 that the network means at timesteps t (B,): (B,) fp64, with gradients."""
    return target_errors(model, latents, t) * factor_to(X0, model.diffusion, t)


def timesteps_in(diffusion: Diffusion, number: int, bins: int, count: int) -> Tensor:
    """Timesteps (count,) in bin `number` of `bins`: any stretch of them is spread evenly over the bin."""
    within = ((torch.arange(count, dtype=torch.float64) + 0.5) * GOLDEN) % 1
    return diffusion.schedule.from_unit((number + within) / bins)


def bin_gradient(model: Model, latents: Latents, t: Tensor, batch_size: int) -> Tensor:
    """The gradient (P,) fp32 of the mean squared error of x0 over all `latents` at timesteps t (N,)."""
    weights = [each for each in model.backbone.parameters() if each.requires_grad]
    total = [torch.zeros_like(each) for each in weights]
    for part, times in zip(latents.chunks(batch_size), t.to(latents.x0.device).split(batch_size), strict=True):
        loss = x0_errors(model, part, times).sum() / len(latents)
        for sums, each in zip(total, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True):
            sums += each
    return torch.cat([each.flatten() for each in total])


def inner_products(gradients: Sequence[Tensor]) -> Tensor:
    """The inner products (M, M) fp64 of M gradients (P,)."""
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients[0].device)
    for columns in zip(*(gradient.split(COLUMNS_AT_ONCE) for gradient in gradients), strict=True):
        wide = torch.stack(columns).double()
        total += wide @ wide.T
    return total

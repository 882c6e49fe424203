"""Estimates of x0 from one network call, beside the images (Debias, figures 2 and 3)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.errors_by_t import errors_at, x0_estimate
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.analysis.style import panels, show_tiles
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import EPS, X0, factor_to
from latentdebias.errors import UserError

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999)


@dataclass(frozen=True)
class Shown:
    """One model's estimate of one image at timestep t, and its squared errors."""

    label: str
    image: int
    t: int | float
    error_eps: float
    error_x0: float
    amplification: float


@FIGURES.register("one-step")
@dataclass(frozen=True, kw_only=True)
class OneStep(Figure):
    """x0 estimated in one network call from z_t, for `images` images of the set at the timesteps `t`.

    An error of eps is 1/sqrt(SNR) times as large in x0 (Debias, eq. 7). `t` of None is eight timesteps over the
    schedule.
    """

    t: tuple[float, ...] | None = None
    images: PositiveInt = 3

    def find(self, inputs: Inputs) -> Finding:
        diffusion = inputs.models[0].model.diffusion
        if any(each.model.diffusion.schedule != diffusion.schedule for each in inputs.models):
            raise UserError(
                "The models have different schedules, on which one t means different noise; analyse them one by one."
            )
        times = self._timesteps(diffusion)
        count = min(self.images, len(inputs.latents))
        latents = inputs.latents.part(torch.arange(count) * len(inputs.latents) // count)
        pixels = inputs.image_sampler.pixels
        originals = pixels(latents.x0).cpu()
        noisy = [diffusion.add_noise(latents.x0, latents.eps, t.expand(count).to(inputs.device)) for t in times]
        columns = [torch.stack([pixels(z.float()).cpu() for z in noisy], dim=1)]
        shown: list[Shown] = []
        for each in tqdm(inputs.models, desc="one-step", unit="model"):
            estimates = [x0_estimate(each.model, latents, t.to(inputs.device)).float() for t in times]
            columns.append(torch.stack([pixels(x0).cpu() for x0 in estimates], dim=1))
            for t in times:
                shown += self._of(each, t, errors_at(each.model, latents, t.to(inputs.device), inputs.batch_size))
        names = ["z_t", *(each.label for each in inputs.models)]
        # (images, names, t), with the image itself in front of each row.
        tiles = torch.stack(columns, dim=1)
        tiles = torch.cat([originals[:, None, None].expand(-1, len(names), 1, -1, -1, -1), tiles], dim=2)
        titles = ["image", *(f"t = {t.item():g}" for t in times)]
        header = ("model", "image", "t", "error_eps", "error_x0", "amplification")
        table = Table(header, [tuple(vars(each).values()) for each in shown])
        return Finding(_picture(tiles, names, titles), table, _line(shown))

    def _timesteps(self, diffusion: Diffusion) -> list[Tensor]:
        schedule = diffusion.schedule
        if self.t is None:
            return list(schedule.from_unit(torch.tensor(SHARES, dtype=torch.float64)))
        grid = schedule.grid()
        for t in self.t:
            if not grid[0] <= t <= grid[-1]:
                raise UserError(
                    f"--t {t:g} is not on the model's schedule, which goes from {grid[0]:g} to {grid[-1]:g}."
                )
        return list(torch.tensor(self.t, dtype=grid.dtype))

    @staticmethod
    def _of(each: LabelledModel, t: Tensor, errors: Tensor) -> Iterator[Shown]:
        diffusion = each.model.diffusion
        eps, x0 = (factor_to(space, diffusion, t[None]).item() for space in (EPS, X0))
        amplification = diffusion.schedule.level(t, torch.float64).snr.item() ** -0.5
        for image, error in enumerate(errors.tolist()):
            yield Shown(each.label, image, t.item(), error * eps, error * x0, amplification)


def _picture(tiles: Tensor, names: list[str], titles: list[str]) -> Any:
    images, rows, columns = tiles.shape[:3]
    picture, [axes] = panels(1, 1, 2 + 1.3 * columns, 0.6 + 1.3 * images * rows)
    show_tiles(axes, tiles.flatten(0, 1), names * images, titles)
    return picture


def _line(shown: list[Shown]) -> str:
    last = [each for each in shown if each.t == shown[-1].t]
    by_model: dict[str, list[float]] = {}
    for each in last:
        by_model.setdefault(each.label, []).append(each.error_x0)
    parts = ", ".join(f"{label} {(sum(errors) / len(errors)) ** 0.5:.3g}" for label, errors in by_model.items())
    return (
        f"at t = {last[0].t:g} an error of eps is {last[0].amplification:.3g} times as large in x0; rms error of x0 "
        f"over these images: {parts}"
    )

"""The squared error against t, of trained models and of the untrained guess (Debias, figures 4 and 10)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.errors_by_t import Mean, errors_at, spread_timesteps
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.analysis.style import panels
from latentdebias.diffusion import Diffusion, Schedule, Target
from latentdebias.diffusion.pareto.bins import EPS, X0, Latents, factor_to

INITIAL = "initial"
TAIL = 0.95
"""The share of the schedule above which it is drawn again: t > 950 of 1000."""
QUANTITIES = ("error_eps", "error_x0", "error_target")


@dataclass(frozen=True)
class Point:
    """The errors of one model at timestep t."""

    t: int | float
    share: float
    error_eps: Mean
    error_x0: Mean
    error_target: Mean

    @classmethod
    def of(cls, diffusion: Diffusion, t: Tensor, target_errors: Tensor) -> "Point":
        """The errors in the three spaces, from those of the target at t (), one an image: (N,)."""
        error, at = Mean.of(target_errors), t[None]
        spaces = (factor_to(space, diffusion, at).item() for space in (EPS, X0))
        eps, x0 = (error.times(factor) for factor in spaces)
        return cls(t.item(), diffusion.schedule.to_unit(t.double()).item(), eps, x0, error)


@FIGURES.register("error-by-t")
@dataclass(frozen=True, kw_only=True)
class ErrorByT(Figure):
    """The mean squared error of eps, x0 and the target, at `points` timesteps over the schedule and 12 above t = 950.

    "initial" guesses that eps is z_t, as Debias does. A mean is over elements and images, with noise drawn once for
    each image; the interval is of both.
    """

    points: PositiveInt = 40
    tail_points: PositiveInt = 12

    def find(self, inputs: Inputs) -> Finding:
        curves: dict[str, list[Point]] = {}
        for each in inputs.models:
            curves[each.label] = list(self._of_model(each, inputs))
        # Models of one schedule and target have one untrained guess.
        guesses: dict[tuple[Schedule, Target], LabelledModel] = {}
        for each in inputs.models:
            guesses.setdefault((each.model.diffusion.schedule, each.model.diffusion.target), each)
        for each in guesses.values():
            name = INITIAL if len(guesses) == 1 else f"{INITIAL} of {each.label}"
            curves[name] = list(self._of_guess(each.model.diffusion, inputs.latents))
        rows = [
            (label, point.t, *(getattr(point, name).value for name in QUANTITIES))
            for label, points in curves.items()
            for point in points
        ]
        return Finding(
            _picture(curves),
            Table(("model", "t", *QUANTITIES), rows),
            _line(curves),
            {"error-by-t-intervals": Table(("model", "t", "quantity", "low", "high"), list(_intervals(curves)))},
        )

    def _timesteps(self, diffusion: Diffusion) -> Tensor:
        whole = spread_timesteps(diffusion, self.points)
        return torch.cat([whole, spread_timesteps(diffusion, self.tail_points, TAIL)]).unique()

    def _of_model(self, each: LabelledModel, inputs: Inputs) -> Iterator[Point]:
        diffusion = each.model.diffusion
        for t in tqdm(self._timesteps(diffusion), desc=each.label, unit="t"):
            errors = errors_at(each.model, inputs.latents, t.to(inputs.device), inputs.batch_size)
            yield Point.of(diffusion, t, errors)

    def _of_guess(self, diffusion: Diffusion, latents: Latents) -> Iterator[Point]:
        x0, eps = latents.x0.double().cpu(), latents.eps.double().cpu()
        for t in self._timesteps(diffusion):
            level = diffusion.schedule.level(t, torch.float64)
            if level.alpha == 0:  # where eps says nothing about x0
                continue
            error = ((level.alpha * x0 + level.sigma * eps - eps) ** 2).flatten(1).mean(dim=1)
            yield Point.of(diffusion, t, error / factor_to(EPS, diffusion, t[None]))


def _intervals(curves: dict[str, list[Point]]) -> Iterator[tuple[object, ...]]:
    for label, points in curves.items():
        for point in points:
            for name in QUANTITIES:
                mean: Mean = getattr(point, name)
                yield label, point.t, name.removeprefix("error_"), mean.low, mean.high


def _picture(curves: dict[str, list[Point]]) -> Any:
    picture, axes = panels(2, 2)
    titles = ("error of eps", "error of eps, t > 950", "error of x0", "error of x0, t > 950")
    for i, (name, from_share) in enumerate((name, share) for name in QUANTITIES[:2] for share in (0.0, TAIL)):
        for label, points in curves.items():
            shown = [point for point in points if point.share > from_share - 1e-9]
            means: list[Mean] = [getattr(point, name) for point in shown]
            dashed = {"color": "black", "linestyle": "--"} if label.startswith(INITIAL) else {}
            [line] = axes[i].semilogy([p.t for p in shown], [mean.value for mean in means], label=label, **dashed)
            low, high = [mean.low for mean in means], [mean.high for mean in means]
            axes[i].fill_between([p.t for p in shown], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes[i].set(title=titles[i], xlabel="t")
    handles, labels = axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4)
    return picture


def _line(curves: dict[str, list[Point]]) -> str:
    means = {
        label: sum(tail) / len(tail)
        for label, points in curves.items()
        if (tail := [point.error_eps.value for point in points if point.share > TAIL])
    }
    parts = ", ".join(f"{label} {mean:.3g}" for label, mean in sorted(means.items(), key=lambda item: item[1]))
    return f"mean squared error of eps in the last twentieth of the schedule (t > 950 of 1000): {parts}"

"""The noise schedules and the loss weightings as curves (Debias, figures 2 and 5); no model is needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from latentdebias.analysis.bins import fixed_weightings, inside_levels
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs
from latentdebias.analysis.style import DASHES, panels
from latentdebias.diffusion import SCHEDULES, TARGETS, WEIGHTINGS, Schedule, Weighting
from latentdebias.errors import UserError
from latentdebias.registry import in_words


@dataclass(frozen=True)
class Curve:
    """A weighting in a space on a schedule: `weight` (T,) at timesteps `t` (T,), whose log SNR is `log_snr` (T,)."""

    schedule: str
    weighting: str
    space: str
    t: Tensor
    log_snr: Tensor
    weight: Tensor

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Schedule, weighting, space, t, log SNR and weight of every point."""
        columns = (self.t.tolist(), self.log_snr.tolist(), self.weight.tolist())
        return ((self.schedule, self.weighting, self.space, *point) for point in zip(*columns, strict=True))


@FIGURES.register("curves")
@dataclass(frozen=True, kw_only=True)
class Curves(Figure):
    """SNR, 1/sqrt(SNR), and weightings stated in `space` on `schedule`, by t and by log SNR.

    `weighting` of None is every one of the package that the schedule has.
    """

    schedule: tuple[Annotated[Schedule, SCHEDULES.part], ...] = (SCHEDULES.build("linear"), SCHEDULES.build("cosine"))
    weighting: tuple[Annotated[Weighting, WEIGHTINGS.part], ...] | None = None
    space: tuple[str, ...] = ("eps",)

    def find(self, inputs: Inputs) -> Finding:
        curves = [curve for schedule in self.schedule for space in self.space for curve in self._of(schedule, space)]
        picture, axes = panels(len(self.schedule), 1 + 2 * len(self.space))
        for row, schedule in enumerate(self.schedule):
            here = axes[row * (1 + 2 * len(self.space)) :]
            _draw_snr(here[0], schedule)
            for column, space in enumerate(self.space):
                of = [each for each in curves if (each.schedule, each.space) == (_name(schedule), space)]
                _draw_weights(here[1 + 2 * column], of, by="t")
                _draw_weights(here[2 + 2 * column], of, by="log_snr")
        handles, labels = axes[1].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=5)
        rows = [row for curve in curves for row in curve.rows()]
        table = Table(("schedule", "weighting", "space", "t", "log_snr", "weight"), rows)
        return Finding(picture, table, _line(curves))

    def _of(self, schedule: Schedule, space: str) -> Iterator[Curve]:
        target = TARGETS.build(space)
        t, level = inside_levels(schedule)
        for weighting in self.weighting or fixed_weightings():
            try:
                weight = weighting.weight_of_target(target, level)
            except UserError:
                if self.weighting is not None:
                    raise
                continue
            yield Curve(_name(schedule), in_words(weighting), space, t, level.snr.log(), weight)


def _name(schedule: Schedule) -> str:
    return SCHEDULES.name_of(schedule)


def _draw_snr(axes: Any, schedule: Schedule) -> None:
    grid = schedule.grid()
    snr = schedule.level(grid, torch.float64).inside().snr
    axes.semilogy(grid, snr, color="black", label="SNR")
    axes.semilogy(grid, snr**-0.5, color="black", linestyle="--", label="1/sqrt(SNR)")
    axes.set(title=f"{_name(schedule)} schedule", xlabel="t", ylim=(1e-5, 1e5))
    axes.legend()


def _draw_weights(axes: Any, curves: list[Curve], by: str) -> None:
    for i, curve in enumerate(curves):
        axes.semilogy(getattr(curve, by), curve.weight, label=curve.weighting, linestyle=DASHES[i // 5 % 4])
    space, schedule = curves[0].space, curves[0].schedule
    axes.set(title=f"weight on the error of {space}, {schedule}", xlabel="log SNR" if by == "log_snr" else "t")
    axes.set(ylim=(1e-4, 1e5))


def _line(curves: list[Curve]) -> str:
    first = [each for each in curves if (each.schedule, each.space) == (curves[0].schedule, curves[0].space)]
    uneven = sorted(((each.weight.max() / each.weight.mean()).item(), each.weighting) for each in first)
    parts = ", ".join(f"{name} {ratio:.3g}" for ratio, name in uneven)
    return f"largest over mean weight on {first[0].space}, schedule {first[0].schedule}: {parts}"

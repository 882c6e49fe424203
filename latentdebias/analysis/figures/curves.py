"""The noise schedules, the loss weightings (Debias, figures 2 and 5) and effective weights; no model is needed."""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from latentdebias.analysis.bins import fixed_weightings, inside_levels
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, diffusion_of
from latentdebias.analysis.style import DASHES, panels
from latentdebias.config import load_config
from latentdebias.diffusion import (
    SCHEDULES,
    TARGETS,
    TIMESTEP_SAMPLERS,
    WEIGHTINGS,
    Diffusion,
    Schedule,
    TimestepSampler,
    Weighting,
)
from latentdebias.diffusion.effective_weight import EffectiveWeight, effective_weight, tabulate
from latentdebias.diffusion.timesteps.by_position import Uniform
from latentdebias.errors import UserError
from latentdebias.objective import SAME
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


@dataclass(frozen=True)
class EffectiveCurve:
    """The effective weight of an objective, with its label and the names of its parts."""

    label: str
    schedule: str
    target: str
    weighting: str
    timesteps: str
    effective: EffectiveWeight

    @classmethod
    def of(cls, label: str, process: Diffusion) -> "EffectiveCurve":
        """The objective of a process."""
        names = (_name(process.schedule), TARGETS.name_of(process.target))
        parts = (in_words(process.weighting), in_words(process.timesteps))
        return cls(label, *names, *parts, effective_weight(process))

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Label, parts, log SNR, density of the timesteps, and effective weight of every point."""
        names = (self.label, self.schedule, self.target, self.weighting, self.timesteps)
        found = self.effective
        columns = (found.log_snr.tolist(), found.density.tolist(), found.weight.tolist())
        return ((*names, *point) for point in zip(*columns, strict=True))


OBJECTIVE = ("objective", "schedule", "target", "weighting", "timesteps", "log_snr", "density", "weight")


@FIGURES.register("curves")
@dataclass(frozen=True, kw_only=True)
class Curves(Figure):
    """SNR, 1/sqrt(SNR), and weightings stated in `space` on `schedule`, by t and by log SNR; and effective weights.

    `weighting` of None is every one of the package that the schedule has. Effective weights are those of `timesteps`
    and each weighting, under the first target of `space`; and in a row of their own those of the configs and runs that
    are given.
    """

    schedule: tuple[Annotated[Schedule, SCHEDULES.part], ...] = (SCHEDULES.build("linear"), SCHEDULES.build("cosine"))
    weighting: tuple[Annotated[Weighting, WEIGHTINGS.part], ...] | None = None
    space: tuple[str, ...] = ("eps",)
    timesteps: Annotated[TimestepSampler, TIMESTEP_SAMPLERS.part] = field(default_factory=Uniform)
    config: tuple[str, ...] = ()

    def find(self, inputs: Inputs) -> Finding:
        curves = [curve for schedule in self.schedule for space in self.space for curve in self._of(schedule, space)]
        given = [*map(_of_config, self.config), *_of_runs(inputs)]
        columns = 2 + 2 * len(self.space)
        picture, axes = panels(len(self.schedule) + bool(given), columns)
        objectives = []
        for row, schedule in enumerate(self.schedule):
            here = axes[row * columns :]
            _draw_snr(here[0], schedule)
            objectives += (on_schedule := list(self._objectives(schedule)))
            _draw_over_log_snr(here[columns - 1], on_schedule, "weight", f"effective weight, {_name(schedule)}")
            for column, space in enumerate(self.space):
                of = [each for each in curves if (each.schedule, each.space) == (_name(schedule), space)]
                _draw_weights(here[1 + 2 * column], of, by="t")
                _draw_weights(here[2 + 2 * column], of, by="log_snr")
        handles, labels = axes[1].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=5)
        if given:
            weight, density, *others = axes[-columns:]
            _draw_over_log_snr(weight, given, "weight", "effective weight, as given")
            _draw_over_log_snr(density, given, "density", "density of the timesteps, as given")
            weight.legend()
            for unused in others:
                unused.set_visible(False)
        rows = [row for curve in curves for row in curve.rows()]
        table = Table(("schedule", "weighting", "space", "t", "log_snr", "weight"), rows)
        effective = Table(OBJECTIVE, [row for each in (*objectives, *given) for row in each.rows()])
        return Finding(picture, table, _line(curves, given), {"curves-effective": effective})

    def _objectives(self, schedule: Schedule) -> Iterator[EffectiveCurve]:
        """The objectives of `timesteps` and each weighting that the schedule has."""
        space = self.space[0]
        names = (_name(schedule), space)
        for weighting in self.weighting or fixed_weightings():
            try:
                found = tabulate(schedule, TARGETS.build(space), weighting, self.timesteps)
            except UserError:
                continue
            label = in_words(weighting)
            yield EffectiveCurve(label, *names, label, in_words(self.timesteps), found)

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


def _of_config(name_or_path: str) -> EffectiveCurve:
    config = load_config(name_or_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EffectiveCurve.of(name_or_path, config.diffusion.build(config.data.latent_shape))


def _of_runs(inputs: Inputs) -> list[EffectiveCurve]:
    runs = inputs.runs if inputs.directories else []
    return [EffectiveCurve.of(run.label, diffusion_of(run.directory)) for run in runs]


def _draw_over_log_snr(axes: Any, objectives: Sequence[EffectiveCurve], name: str, title: str) -> None:
    for i, objective in enumerate(objectives):
        found = objective.effective
        axes.plot(found.log_snr, getattr(found, name), label=objective.label, linestyle=DASHES[i % 4])
    axes.set(title=title, xlabel="log SNR", ylim=(0, 0.5))


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


def _line(curves: list[Curve], given: list[EffectiveCurve]) -> str:
    first = [each for each in curves if (each.schedule, each.space) == (curves[0].schedule, curves[0].space)]
    uneven = sorted(((each.weight.max() / each.weight.mean()).item(), each.weighting) for each in first)
    parts = ", ".join(f"{name} {ratio:.3g}" for ratio, name in uneven)
    line = f"largest over mean weight on {first[0].space}, schedule {first[0].schedule}: {parts}"
    pairs = [each for each in itertools.combinations(given, 2) if each[0].effective.distance(each[1].effective) <= SAME]
    return "; ".join([line, *(f"{a.label} and {b.label} are one objective up to variance" for a, b in pairs)])

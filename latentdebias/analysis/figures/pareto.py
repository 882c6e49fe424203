"""The Pareto objective of weightings and of solved weights (Min-SNR, figures 3 and 4)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from scipy.stats import chi2
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.bins import BinGradients, bin_weights, fixed_weightings
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.analysis.style import DASHES, mosaic
from latentdebias.diffusion.pareto.bins import bin_gradient, inner_products, timesteps_in
from latentdebias.diffusion.pareto.solvers import SOLVERS, regularized
from latentdebias.errors import UserError
from latentdebias.registry import in_words


@dataclass(frozen=True)
class Method:
    """A weighting or a solver: its weights (B,), and its objective with the ends of its interval."""

    name: str
    weights: Tensor
    objective: float
    low: float
    high: float


@dataclass(frozen=True)
class Instability:
    """The standard deviation of solved weights over sets of `samples` images, mean over bins, and its interval."""

    solver: str
    samples: int
    deviation: float
    low: float
    high: float


@FIGURES.register("pareto")
@dataclass(frozen=True, kw_only=True)
class Pareto(Figure):
    """|sum_b w_b g_b|^2 + lambda sum_b w_b^2 (eq. 11) of every weighting, and of the weights that the solvers find.

    g_b is the gradient of the squared error of x0 in bin b of `bins`, over all images; w_b is the mean weight in the
    bin, the weights summing to 1. lambda is `regularization` times the median |g_b|^2 (the paper does not print its
    own). Intervals are from `blocks` blocks of images. Then the weights are solved anew from each of `repeats` sets
    of `samples` images.
    """

    bins: Annotated[int, Field(ge=2)] = 10
    regularization: PositiveFloat = 0.1
    blocks: Annotated[int, Field(ge=2)] = 8
    samples: tuple[Annotated[int, Field(ge=1)], ...] = (4, 16, 64)
    repeats: Annotated[int, Field(ge=2)] = 8

    def find(self, inputs: Inputs) -> Finding:
        needed = max(2 * self.blocks, self.repeats * max(self.samples))
        if len(inputs.latents) < needed:
            raise UserError(
                f"{len(inputs.latents)} latents are too few for {self.repeats} sets of {max(self.samples)} of them; "
                f"raise --num, or lower --samples."
            )
        methods = {each.label: list(self._methods(each, inputs)) for each in inputs.models}
        unstable = {each.label: list(self._instability(each, inputs)) for each in inputs.models}
        columns = ("solver", "samples", "deviation", "low", "high")
        weights = {
            label: [(each.name, number, value) for each in all_ for number, value in enumerate(each.weights.tolist())]
            for label, all_ in methods.items()
        }
        objectives, ends = Table.with_intervals(
            ("method",), "objective", _rows(methods, ("name", "objective", "low", "high"))
        )
        return Finding(
            _picture(methods, unstable),
            objectives,
            _line(methods, unstable),
            {
                "pareto-intervals": ends,
                "pareto-weights": Table.by_model(("method", "bin", "weight"), weights),
                "pareto-instability": Table.by_model(columns, _rows(unstable, columns)),
            },
        )

    def _methods(self, each: LabelledModel, inputs: Inputs) -> Iterator[Method]:
        gradients = BinGradients.of(each.model, inputs.latents, self.bins, self.blocks, inputs.batch_size)
        matrix = regularized(gradients.gram(), self.regularization)
        weights = {name: solve(matrix) for name, solve in SOLVERS.items()}
        for weighting in fixed_weightings():
            try:
                weights[in_words(weighting)] = bin_weights(weighting, each.model.diffusion.schedule, self.bins)
            except UserError:  # not on this schedule, such as vlb, or not for errors of x0
                continue
        for name, w in weights.items():
            value, low, high = gradients.estimate(partial(self._objective, w))
            yield Method(name, w, value.item(), low.item(), high.item())

    def _objective(self, weights: Tensor, gram: Tensor) -> Tensor:
        return weights @ regularized(gram, self.regularization) @ weights

    def _instability(self, each: LabelledModel, inputs: Inputs) -> Iterator[Instability]:
        solved: dict[tuple[str, int], list[Tensor]] = {}
        sets = [(samples, repeat) for samples in sorted(self.samples) for repeat in range(self.repeats)]
        order = torch.randperm(len(inputs.latents), generator=torch.Generator().manual_seed(inputs.seed))
        for samples, repeat in tqdm(sets, desc="instability", unit="set"):
            rows = order[repeat * samples : (repeat + 1) * samples]
            part = inputs.latents.part(rows)
            gradients = []
            for number in range(self.bins):
                t = timesteps_in(each.model.diffusion, number, self.bins, len(inputs.latents))[rows]
                gradients.append(bin_gradient(each.model, part, t, inputs.batch_size).cpu())
            matrix = regularized(inner_products(gradients), self.regularization)
            for name, solve in SOLVERS.items():
                solved.setdefault((name, samples), []).append(solve(matrix))
        freedom = self.repeats - 1
        for (name, samples), weights in solved.items():
            deviation = torch.stack(weights).std(dim=0).mean().item()
            low, high = (deviation * (freedom / chi2.ppf(share, freedom)) ** 0.5 for share in (0.975, 0.025))
            yield Instability(name, samples, deviation, float(low), float(high))


def _rows(found: dict[str, list[Any]], columns: tuple[str, ...]) -> dict[str, list[tuple[object, ...]]]:
    return {label: [tuple(getattr(each, name) for name in columns) for each in all_] for label, all_ in found.items()}


def _picture(methods: dict[str, list[Method]], unstable: dict[str, list[Instability]]) -> Any:
    layout = [[f"{what} {label}" for what in ("objective", "weights", "instability")] for label in methods]
    picture, axes = mosaic(layout, 22, [6.5] * len(methods))
    for label, all_ in methods.items():
        ranked = sorted(all_, key=lambda each: -each.objective)
        bars, values = axes[f"objective {label}"], [each.objective for each in ranked]
        margins = [each.objective - each.low for each in ranked]
        colours = ["#D55E00" if each.name in SOLVERS else "#0072B2" for each in ranked]
        bars.barh([each.name for each in ranked], values, xerr=margins, color=colours, log=True, capsize=3)
        bars.set(title=f"{label}: Pareto objective", xlim=(min(values) / 2, max(values) * 2))
        bars.grid(False, axis="y")
        lines = axes[f"weights {label}"]
        for i, each in enumerate(sorted(all_, key=lambda each: each.objective)):
            lines.semilogy(each.weights.clamp(min=1e-8), label=each.name, marker="o", linestyle=DASHES[i // 5 % 4])
        lines.set(title="weights", xlabel="bin of t", ylim=(1e-6, 2))
        lines.legend(fontsize=13, loc="center left", bbox_to_anchor=(1.0, 0.5))
        spread = axes[f"instability {label}"]
        for number, name in enumerate(SOLVERS):
            curve = [each for each in unstable[label] if each.solver == name]
            ends = [[c.deviation - c.low for c in curve], [c.high - c.deviation for c in curve]]
            at, heights = [each.samples * 1.05**number for each in curve], [each.deviation for each in curve]
            spread.errorbar(at, heights, ends, label=name, marker="o", capsize=4)
        spread.set(title="deviation of solved weights", xlabel="images", xscale="log", ylim=(0, None))
        samples = sorted({each.samples for each in unstable[label]})
        spread.set_xticks(samples, [str(each) for each in samples])
        spread.minorticks_off()
        spread.legend()
    return picture


def _line(methods: dict[str, list[Method]], unstable: dict[str, list[Instability]]) -> str:
    parts = []
    for label, all_ in methods.items():
        ranked = ", ".join(f"{e.name} {e.objective:.3g}" for e in sorted(all_, key=lambda each: each.objective))
        ugd = [each for each in unstable[label] if each.solver == "ugd"]
        parts.append(
            f"{label}: objective {ranked}; weights solved from {ugd[0].samples} images deviate by "
            f"{ugd[0].deviation:.2g}, from {ugd[-1].samples} by {ugd[-1].deviation:.2g}"
        )
    return "; ".join(parts)

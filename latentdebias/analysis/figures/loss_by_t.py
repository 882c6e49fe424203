"""The squared error of x0 over training, by tenth of the schedule (Min-SNR, figure 6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from latentdebias.analysis.errors_by_t import QUANTILE
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledRun
from latentdebias.analysis.style import panels
from latentdebias.errors import UserError
from latentdebias.files import parse_json
from latentdebias.training.monitor.log_writers import LOG
from latentdebias.training.monitor.loss_meter import BINS


@dataclass(frozen=True)
class Point:
    """The mean error of x0 in a bin over the log lines up to `step`, and its standard error."""

    step: int
    bin: int
    loss: float
    error: float


@FIGURES.register("loss-by-t")
@dataclass(frozen=True, kw_only=True)
class LossByT(Figure):
    """The mean squared error of x0, without a weight, of the batches trained on, from the log of each run.

    `average` log lines are averaged into one point.
    """

    average: PositiveInt = 1

    def find(self, inputs: Inputs) -> Finding:
        curves = {run.label: list(self._of(run)) for run in inputs.runs}
        rows = {label: [(each.step, each.bin, each.loss) for each in points] for label, points in curves.items()}
        ends = {label: [(each.step, each.bin, *_interval(each)) for each in points] for label, points in curves.items()}
        return Finding(
            _picture(curves),
            Table.by_model(("step", "bin", "loss"), rows),
            _line(curves),
            {"loss-by-t-intervals": Table.by_model(("step", "bin", "low", "high"), ends)},
        )

    def _of(self, run: LabelledRun) -> Iterator[Point]:
        records = [record for record in _records(run) if "x0_loss_by_t" in record]
        if not records:
            raise UserError(
                f"{run.directory / LOG} has no x0_loss_by_t: the run has logged nothing yet, or an older latentdebias "
                f"trained it. Train it further, or again."
            )
        for start in range(0, len(records), self.average):
            lines = records[start : start + self.average]
            for number in range(BINS):
                losses = [record["x0_loss_by_t"][number] for record in lines]
                errors = [record["x0_loss_error_by_t"][number] for record in lines]
                if None in losses or None in errors:  # too few samples fell into this bin
                    continue
                error = sum(each**2 for each in errors) ** 0.5 / len(lines)
                yield Point(lines[-1]["step"], number, sum(losses) / len(lines), error)


def _records(run: LabelledRun) -> Iterator[dict[str, Any]]:
    for line in (run.directory / LOG).read_text().splitlines():
        try:
            yield parse_json(line)
        except ValueError:  # a line that a running training is writing
            continue


def _interval(point: Point) -> tuple[float, float]:
    return point.loss - QUANTILE * point.error, point.loss + QUANTILE * point.error


def _picture(curves: dict[str, list[Point]]) -> Any:
    picture, axes = panels(2, BINS // 2, 4, 4)
    for label, points in curves.items():
        for number in range(BINS):
            here = [point for point in points if point.bin == number]
            steps = [point.step for point in here]
            [line] = axes[number].semilogy(steps, [point.loss for point in here], label=label)
            ends = [_interval(point) for point in here]
            low, high = [low for low, _ in ends], [high for _, high in ends]
            axes[number].fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for number, each in enumerate(axes):
        each.set(title=f"t in {number * 10}-{number * 10 + 10}%", xlabel="step" if number >= BINS // 2 else "")
        each.locator_params(axis="x", nbins=3)
    picture.supylabel("squared error of x0")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return picture


def _line(curves: dict[str, list[Point]]) -> str:
    parts = []
    for label, points in curves.items():
        last = max(point.step for point in points)
        losses = {point.bin: point.loss for point in points if point.step == last}
        shown = " to ".join(f"{losses[number]:.3g}" for number in (min(losses), max(losses)))
        parts.append(f"{label} {shown} at step {last}")
    return f"squared error of x0 from the first to the last tenth of t: {', '.join(parts)}"

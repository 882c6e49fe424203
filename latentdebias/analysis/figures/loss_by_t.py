"""The squared error of x0 over training, by tenth of the schedule (Min-SNR, figure 6)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import PositiveInt
from tqdm import tqdm

from latentdebias.analysis.bins import losses_by_bin
from latentdebias.analysis.errors_by_t import Mean
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledRun, check_same_latents
from latentdebias.analysis.style import panels
from latentdebias.errors import UserError
from latentdebias.files import parse_json
from latentdebias.models.model_directory import load_model
from latentdebias.training.monitor.log_writers import LOG
from latentdebias.training.monitor.loss_meter import BINS

MARKED = 20
"""A line of fewer points has a marker at each."""


@dataclass(frozen=True)
class Point:
    """The mean error of x0 in a bin after `step` steps."""

    step: int
    bin: int
    loss: Mean


@FIGURES.register("loss-by-t")
@dataclass(frozen=True, kw_only=True)
class LossByT(Figure):
    """The mean squared error of x0, without a weight, by tenth of the schedule.

    For a run it is that of the batches trained on, from the log, with `average` log lines in one point. For a folder of
    kept models, RUN/models, it is computed with each of them, on all latents with the same noise and timesteps.
    """

    average: PositiveInt = 1

    def find(self, inputs: Inputs) -> Finding:
        curves = {run.label: list(_of_models(run, inputs) if run.kept else self._of_log(run)) for run in inputs.runs}
        rows = {label: [(each.step, each.bin, *vars(each.loss).values()) for each in curves[label]] for label in curves}
        losses, ends = Table.with_intervals(("step", "bin"), "loss", rows)
        return Finding(_picture(curves), losses, _line(curves), {"loss-by-t-intervals": ends})

    def _of_log(self, run: LabelledRun) -> Iterator[Point]:
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
                yield Point(lines[-1]["step"], number, Mean.about(sum(losses) / len(lines), error))


def _of_models(run: LabelledRun, inputs: Inputs) -> Iterator[Point]:
    first = replace(inputs, directories=(run.kept[0],))
    [shown] = first.models
    for directory in tqdm(run.kept, desc=run.label, unit="model"):
        model = load_model(directory, inputs.device)
        check_same_latents(shown.model.config, model.config, directory)
        for number, losses in enumerate(losses_by_bin(model, first.latents, BINS, inputs.batch_size)):
            finite = losses[losses.isfinite()]  # at alpha = 0 an error of eps is without limit in x0
            if len(finite) > 1:
                yield Point(model.config.step, number, Mean.of(finite))


def _records(run: LabelledRun) -> Iterator[dict[str, Any]]:
    for line in (run.directory / LOG).read_text().splitlines():
        try:
            yield parse_json(line)
        except ValueError:  # a line that a running training is writing
            continue


def _picture(curves: dict[str, list[Point]]) -> Any:
    picture, axes = panels(2, BINS // 2, 4, 4)
    for label, points in curves.items():
        for number in range(BINS):
            here = [point for point in points if point.bin == number]
            steps = [point.step for point in here]
            marker = "o" if len(here) < MARKED else None
            [line] = axes[number].semilogy(steps, [point.loss.value for point in here], label=label, marker=marker)
            low, high = [point.loss.low for point in here], [point.loss.high for point in here]
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
        losses = {point.bin: point.loss.value for point in points if point.step == last}
        shown = " to ".join(f"{losses[number]:.3g}" for number in (min(losses), max(losses)))
        parts.append(f"{label} {shown} at step {last}")
    return f"squared error of x0 from the first to the last tenth of t: {', '.join(parts)}"

"""A score against training iterations, and the iterations that each run needs (Debias, figure 7; Min-SNR, figure 5)."""

import csv
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from tqdm import tqdm

from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledRun
from latentdebias.analysis.style import panels
from latentdebias.errors import UserError, command, legal_choices
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.metrics.metric import loss_of
from latentdebias.evaluation.protocol.comparison import DECISIVE, differences
from latentdebias.evaluation.protocol.intervals import better_of
from latentdebias.evaluation.protocol.record import ProtocolRecord

BASELINE = "constant"
# What decides a score's value, and so must be the same for all that one picture compares.
SAME = (*DECISIVE, "sampling.sampler", "sampling.steps", "sampling.guidance.scale", "sampling.seed")


@dataclass(frozen=True)
class Point:
    """A score after so many training steps, and the ends of its interval or spread where it has one."""

    iteration: int
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """A row of a study's `scores.csv`, with one of its scores."""

    setting: str
    draw: tuple[str, int]
    point: Point


@FIGURES.register("iterations")
@dataclass(frozen=True, kw_only=True)
class Iterations(Figure):
    """The `score` against iterations, from the records that runs with `evaluation.every` write.

    With `scores`, a study's `scores.csv`, it is the mean of each setting over its seeds, plus and minus their standard
    deviation, or the interval of a single seed. `sampler` and `steps` choose among that table's scores; None are those
    scored at the most iterations. `baseline` is the label of a run or setting; None is the first one with the constant
    weighting, or else the first.
    """

    score: str = "fid"
    baseline: str | None = None
    scores: Path | None = None
    sampler: str | None = None
    steps: PositiveInt | None = None

    def find(self, inputs: Inputs) -> Finding:
        how, curves = self._of_study(self.scores) if self.scores else self._of_runs(inputs)
        baseline = self._baseline(list(curves))
        needed = self._needed(curves, baseline)
        rows = [(label, *vars(point).values()) for label, points in curves.items() for point in points]
        return Finding(
            self._picture(curves, baseline, how),
            Table(("model", "iteration", self.score, "low", "high"), rows),
            self._line(needed, baseline) + how,
            {"iterations-needed": Table(("model", f"best_{self.score}", "iteration", "times_sooner"), needed)},
        )

    def _of_runs(self, inputs: Inputs) -> tuple[str, dict[str, list[Point]]]:
        records = {run.label: dict(_records(run)) for run in tqdm(inputs.runs, desc="records", unit="run")}
        _check_same([record for of_run in records.values() for record in of_run.values()])
        return "", {label: [self._point(*item, label) for item in of_run.items()] for label, of_run in records.items()}

    def _point(self, iteration: int, record: ProtocolRecord, label: str) -> Point:
        if self.score not in record.scores:
            raise UserError(
                f"The records of {label} have no score {self.score!r}. {legal_choices(self.score, record.scores)}"
            )
        return Point(iteration, record.scores[self.score], *record.intervals.get(self.score, (None, None)))

    def _of_study(self, path: Path) -> tuple[str, dict[str, list[Point]]]:
        """How the images were drawn, and the points of each setting."""
        rows = list(self._rows(path))
        iterations: dict[tuple[str, int], set[int]] = {}
        for row in rows:
            iterations.setdefault(row.draw, set()).add(row.point.iteration)
        chosen = [draw for draw in iterations if draw == (self.sampler or draw[0], self.steps or draw[1])]
        if not chosen:
            found = ", ".join(f"{sampler} in {steps}" for sampler, steps in iterations)
            asked = f"{self.sampler or 'any sampler'} in {self.steps or 'any number of'} steps"
            raise UserError(f"{path} has no {self.score} of {asked}. Legal: {found or 'none, for nothing is scored'}.")
        draw = max(chosen, key=lambda each: (len(iterations[each]), each[1]))
        curves: dict[str, dict[int, list[Point]]] = {}
        for row in rows:
            if row.draw == draw:
                curves.setdefault(row.setting, {}).setdefault(row.point.iteration, []).append(row.point)
        how = f" ({draw[0]}, {draw[1]} steps; mean over seeds ± standard deviation)"
        return how, {label: [_over_seeds(curve[at]) for at in sorted(curve)] for label, curve in curves.items()}

    def _rows(self, path: Path) -> Iterator[Row]:
        try:
            table = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read: {error}. A study writes one: {command('study')} run") from None
        for row in table:
            if self.score not in row:
                scores = [name for name in row if f"{name}_low" in row]
                raise UserError(f"{path} has no score {self.score!r}. {legal_choices(self.score, scores)}")
            try:
                if row[self.score]:
                    yield Row(row["setting"], (row["sampler"], int(row["steps"])), self._point_of(row))
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"{path} is no scores.csv of a study ({error!r}); a study writes one: {command('study')} run"
                ) from None

    def _point_of(self, row: dict[str, str]) -> Point:
        ends = (row.get(f"{self.score}_{end}") for end in ("low", "high"))
        low, high = (float(end) if end else None for end in ends)
        return Point(int(row["iteration"]), float(row[self.score]), low, high)

    def _baseline(self, labels: list[str]) -> str:
        if self.baseline is None:
            return next((label for label in labels if BASELINE in label.split()), labels[0])
        if self.baseline not in labels:
            raise UserError(f"--baseline {self.baseline!r} is none of them. {legal_choices(self.baseline, labels)}")
        return self.baseline

    def _needed(self, curves: dict[str, list[Point]], baseline: str) -> list[tuple[object, ...]]:
        """For each run its best score, the first iteration with the baseline's best, and how many times sooner that is.

        The iteration is empty for a run that never is as good.
        """
        best = {label: self._best(points) for label, points in curves.items()}
        goal = best[baseline]
        rows: list[tuple[object, ...]] = []
        for label, points in curves.items():
            reached = [point.iteration for point in points if self._key(point) <= self._key(goal)]
            sooner = goal.iteration / reached[0] if reached else None
            rows.append((label, best[label].score, reached[0] if reached else None, sooner))
        return rows

    def _best(self, points: list[Point]) -> Point:
        return min(points, key=self._key)

    def _key(self, point: Point) -> float:
        better = better_of([METRICS.build(name) for name in METRICS.names()]).get(self.score, "lower")
        return loss_of(point.score, better)

    def _picture(self, curves: dict[str, list[Point]], baseline: str, how: str) -> Any:
        picture, [axes] = panels(1, 1, 9, 6)
        for label, points in curves.items():
            iterations = [point.iteration for point in points]
            [line] = axes.plot(iterations, [point.score for point in points], label=label, marker="o")
            known = [(point.iteration, point.low, point.high) for point in points if point.low is not None]
            if known:
                at, low, high = zip(*known, strict=True)
                axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        best = self._best(curves[baseline]).score
        axes.axhline(best, color="black", linestyle=":", label=f"best of {baseline}")
        axes.set(xlabel="training iterations", ylabel=self.score.upper() if self.score == "fid" else self.score)
        axes.set_title(how.strip(" ()"))
        axes.legend()
        return picture

    def _line(self, needed: list[tuple[object, ...]], baseline: str) -> str:
        parts = [
            f"{label} " + (f"at {iteration} ({sooner:.3g}x sooner)" if sooner else f"never (best {best:.4g})")
            for label, best, iteration, sooner in needed
            if label != baseline
        ]
        goal = next(row for row in needed if row[0] == baseline)
        reach = f"; the others reach it: {', '.join(parts)}" if parts else ""
        return f"{baseline} has its best {self.score}, {goal[1]:.4g}, at iteration {goal[2]}{reach}"


def _over_seeds(points: list[Point]) -> Point:
    """The mean of the seeds' scores, plus and minus their standard deviation; a single seed's score as it is."""
    if len(points) == 1:
        return points[0]
    scores = [point.score for point in points]
    mean, spread = statistics.mean(scores), statistics.stdev(scores)
    return Point(points[0].iteration, mean, mean - spread, mean + spread)


def _records(run: LabelledRun) -> Iterator[tuple[int, ProtocolRecord]]:
    paths = sorted(run.directory.glob("evaluation/step-*.json"))
    if not paths:
        raise UserError(
            f"{run.directory} has no scores in evaluation/. Score a run as it trains: --set evaluation.every=1000 "
            f"--set evaluation.reference=PATH"
        )
    for path in paths:
        yield int(path.stem.removeprefix("step-")), ProtocolRecord.read(path)


def _check_same(records: list[ProtocolRecord]) -> None:
    for record in records[1:]:
        if different := [name for name in SAME if name in differences(records[0], record)]:
            raise UserError(
                f"The scores of {record.samples} and {records[0].samples} do not compare: they differ in "
                f"{', '.join(different)}. Score both alike."
            )

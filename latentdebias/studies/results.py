"""What a study's cells have scored so far: rows of scores, and the values chosen for the tuned option."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdebias.evaluation.metrics.metric import loss_of
from latentdebias.evaluation.protocol.intervals import Interval
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.files import publish
from latentdebias.registry import in_words
from latentdebias.studies.study import Cell, Scored, Study


@dataclass(frozen=True)
class Result:
    """The scores of one cell at one iteration, drawn in one way, with their 95% intervals."""

    cell: Cell
    score: Scored
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]

    @property
    def setting(self) -> str:
        """The label of the cell's setting."""
        return self.cell.setting.label


def results_of(cells: Iterable[Cell]) -> list[Result]:
    """The results of all records that `cells` have; a score that is still to be made has none."""
    found = []
    for cell in cells:
        for score in cell.scores:
            if (path := cell.file(score, ".json")).is_file():
                record = ProtocolRecord.read(path)
                found.append(Result(cell, score, record.scores, record.intervals))
    return found


def tuning_score(study: Study) -> str:
    """The name of the score that decides the tuned option."""
    assert study.options.tune is not None, "asked of a study with `tune` alone"
    return study.options.tune.by or next(iter(study.evaluate.better))


def tuned_values(study: Study) -> dict[str, Any]:
    """The best value of the tuned option by setting's label; a setting whose short runs have no score is left out."""
    tune = study.options.tune
    if tune is None:
        return {}
    name = tuning_score(study)
    best: dict[str, tuple[float, Any]] = {}
    for result in results_of(study.tuning_cells()):
        if name in result.scores:
            loss = loss_of(result.scores[name], study.evaluate.better[name])
            if math.isfinite(loss) and loss < best.get(result.setting, (math.inf,))[0]:
                best[result.setting] = (loss, result.cell.changes[tune.key])
    return {label: value for label, (_, value) in best.items()}


def write_scores(results: Sequence[Result], study: Study, path: Path) -> None:
    """Write `scores.csv`: a row for each result.

    The columns are `setting`, every key of the config that the study varies, `seed`, `iteration`, `sampler`, `steps`,
    then each score, with the ends of its 95% interval as SCORE_low and SCORE_high.
    """
    tune = study.options.tune
    keys = dict.fromkeys(key for setting in study.settings for key in setting.changes)
    keys |= {tune.key: None} if tune else {}
    names = list(dict.fromkeys(name for result in results for name in result.scores))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow(["setting", *keys, "seed", "iteration", "sampler", "steps", *ends])
    for result in results:
        cell, score = result.cell, result.score
        varied = [in_words(cell.changes.get(key, "")) for key in keys]
        values = [
            value for name in names for value in (result.scores.get(name, ""), *result.intervals.get(name, ("", "")))
        ]
        how = [cell.seed, score.iteration, score.sampler, score.draw.steps]
        writer.writerow([result.setting, *varied, *how, *values])
    publish(path, text.getvalue().encode())

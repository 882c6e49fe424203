"""`latentdebias study`: run a study, report on it, or score one of its cells."""

import argparse
from pathlib import Path

from latentdebias.errors import UserError, legal_choices
from latentdebias.registry import load_plugins
from latentdebias.studies.report import write_report
from latentdebias.studies.results import tuned_values
from latentdebias.studies.running import run_study
from latentdebias.studies.scoring import Scorer
from latentdebias.studies.study import Study


def run(arguments: argparse.Namespace) -> None:
    """Run every cell that is not done, and write the report; exit code 1 where a cell failed."""
    study = _read(arguments.study)
    failed = run_study(study, arguments.workers)
    _report(study, study.out)
    if failed:
        print(f"{len(failed)} cells failed: {', '.join(cell.name for cell in failed)}; the report says why")
        raise SystemExit(1)


def report(arguments: argparse.Namespace) -> None:
    """Write the report of what is there."""
    study = _read(arguments.study)
    _report(study, arguments.out or study.out)


def score(arguments: argparse.Namespace) -> None:
    """Score one cell."""
    study = _read(arguments.study)
    cells = {cell.name: cell for cell in (*study.tuning_cells(), *study.cells(tuned_values(study)))}
    if arguments.cell not in cells:
        raise UserError(f"No cell is named {arguments.cell!r}. {legal_choices(arguments.cell, cells)}")
    Scorer.of(study).score(cells[arguments.cell])


def _read(path: Path) -> Study:
    load_plugins(())
    return Study.read(path)


def _report(study: Study, out: Path) -> None:
    line = write_report(study, out)
    print(f"{line}\nwritten to {out / 'report.html'}, report.md and scores.csv")

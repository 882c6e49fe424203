"""Running a study: its cells in processes of their own, some side by side; what is done already is left as it is."""

import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.files import check_output_folder, publish, read_json, try_lock
from latentdebias.models.model_directory import CONFIG, WEIGHTS, read_model_config
from latentdebias.studies.results import tuned_values
from latentdebias.studies.scoring import Scorer, check_draws
from latentdebias.studies.study import Cell, Study

FAILURE = "failure.json"
MODULES = {"train": "latentdebias.cli.train", "score": "latentdebias.cli.study"}
LAST_BYTES = 20_000
SECONDS_BETWEEN_LOOKS = 0.2
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def run_study(study: Study, workers: int) -> list[Cell]:
    """Train and score every cell that is not, `workers` at a time; returns the cells that failed.

    A killed study goes on with the same call. Raises `UserError` before anything is trained where data, reference or
    extractor are missing, images cannot be drawn as the study says, or another process runs the study.
    """
    check_output_folder(study.out)
    study.out.mkdir(parents=True, exist_ok=True)
    lock = try_lock(study.out / "lock")
    if lock is None:
        raise UserError(f"{study.out} is in use by another process that runs this study; wait for it, or end it.")
    with lock:
        return _run_study(study, workers)


def _run_study(study: Study, workers: int) -> list[Cell]:
    check_draws(study)
    scorer = Scorer.of(study)
    scorer.features()
    runner = Runner(study, scorer)
    failed = runner.run(study.tuning_cells(), workers, "short run")
    tuned = tuned_values(study)
    cells = study.cells(tuned)
    if study.options.tune is not None:
        for cell in cells:
            if cell.setting.label not in tuned:
                record_failure(cell, f"tuning: no value of {study.options.tune.key} gave a score")
                failed.append(cell)
        cells = [cell for cell in cells if cell.setting.label in tuned]
    return [*failed, *runner.run(cells, workers, "run")]


@dataclass
class Runner:
    """Runs cells of one study; each cell is a generator that yields as long as a process of it runs."""

    study: Study
    scorer: Scorer
    running: dict[str, str] = field(default_factory=dict)
    failed: list[Cell] = field(default_factory=list)

    def run(self, cells: Sequence[Cell], workers: int, unit: str) -> list[Cell]:
        """Run `cells`, at most `workers` at a time, and return those that failed; the others go on."""
        self.failed, shown = [], ""
        if not cells:
            return []
        with tqdm(total=len(cells), desc="study", unit=unit) as progress:
            waiting = (self._cell(cell, progress) for cell in cells)
            active = list(itertools.islice(waiting, workers))
            while active:
                active = [job for job in active if next(job, "done") != "done"]
                active += itertools.islice(waiting, workers - len(active))
                now = ", ".join(f"{name} {what}" for name, what in self.running.items())
                if now != shown:
                    progress.set_postfix_str(now)
                    shown = now
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.failed

    def _cell(self, cell: Cell, progress: tqdm) -> Iterator[None]:
        (cell.run_dir / FAILURE).unlink(missing_ok=True)
        for stage, words in self._stages(cell):
            yield from self._process(cell, stage, words)
            if (cell.run_dir / FAILURE).exists():
                self.failed.append(cell)
                break
        self.running.pop(cell.name, None)
        progress.update()

    def _stages(self, cell: Cell) -> Iterator[tuple[str, list[str]]]:
        """The commands that are still to be run for `cell`, each looked for when the one before has ended."""
        if not is_trained(cell):
            yield "train", cell.arguments
        if self.scorer.missing(cell):
            yield "score", ["score", str(self.study.path), "--cell", cell.name]

    def _process(self, cell: Cell, stage: str, words: list[str]) -> Iterator[None]:
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        output = cell.run_dir / f"{stage}.out"
        start = [sys.executable, "-m", MODULES[stage], *words]
        with (
            output.open("wb") as file,
            # A child that outlived a killed study would hold the run directory against the next one.
            subprocess.Popen(start, stdout=file, stderr=file, env=_environment(), preexec_fn=_end_with_parent) as child,
        ):
            while child.poll() is None:
                self.running[cell.name] = f"{_step_of(cell)}/{cell.iterations}" if stage == "train" else "scoring"
                yield
        if child.returncode:
            record_failure(cell, f"{stage}: {_message(output, child.returncode)}")


def is_trained(cell: Cell) -> bool:
    """Whether the run has reached its last iteration under this very config."""
    model, config = cell.run_dir / "model", cell.run_dir / "config.yaml"
    if not (model / WEIGHTS).is_file() or not config.is_file():
        return False
    trained = read_model_config(model / CONFIG).step == cell.iterations
    return trained and yaml.safe_load(config.read_text()) == yaml.safe_load(yaml.safe_dump(cell.config.plain()))


def record_failure(cell: Cell, message: str) -> None:
    """Write why `cell` failed into its run directory."""
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    publish(cell.run_dir / FAILURE, json.dumps({"message": message}).encode())


def failure_of(cell: Cell) -> str | None:
    """Why `cell` failed when it was last run; None where it did not."""
    path = cell.run_dir / FAILURE
    return str(read_json(path, "Run the study again.")["message"]) if path.exists() else None


def _environment() -> dict[str, str]:
    # One thread for each of several cells is faster than several threads for one; without DS_ACCELERATOR, DeepSpeed
    # warns on a CPU that it found no accelerator.
    without_gpu = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    return {"OMP_NUM_THREADS": "1", **os.environ, **without_gpu}


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _step_of(cell: Cell) -> int:
    """The last iteration in the log of a run."""
    steps = re.findall(rb'"step": (\d+)', _tail(cell.run_dir / "log.jsonl"))
    return int(steps[-1]) if steps else 0


def _message(output: Path, code: int) -> str:
    """What a failed process said last: its `error:` paragraph, or its last line, with the exit code."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", _tail(output).decode(errors="replace")) if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or ["nothing was said"])[-1]
    return f"{said} ({f'ended by signal {-code}' if code < 0 else f'exit code {code}'}; all of it is in {output})"


def _tail(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LAST_BYTES))
        return file.read()

"""`latentdebias bench start`: seconds from the command to the end of the first step, and what they are spent on."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from latentdebias.commands.bench.loops.workload import usual_precision, written
from latentdebias.commands.bench.measuring.table import Table, check_json
from latentdebias.config import write_config
from latentdebias.distributed import environment_without_launcher

PHASES = ("interpreter", "imports", "config", "data and checks", "process group", "model", "engine", "first step")


def bench_start(options: argparse.Namespace) -> None:
    """Report what each phase of a start takes, with the files cached: this process has imported the same modules."""
    check_json(options.json)
    precision = usual_precision(options.precision)
    with written(options.model, options.batch_size, precision, options.workers or 0) as workload:
        config = workload.folder / "config.yaml"
        write_config(workload.config("start", ("training.log_every=1",)), config)
        rounds = [_start(config) for _ in range(options.rounds)]
    table = Table(f"{options.model}, batch {options.batch_size}, {precision}, from the command to the first step")
    table.add("start", [sum(each) for each in rounds], "s")
    for number, phase in enumerate(PHASES):
        table.add(f"of it {phase}", [each[number] for each in rounds], "s")
    table.report(options.json)


def _start(config: Path) -> list[float]:
    """The seconds of each phase of one start in a new process."""
    # As a program and not as a module: this package's own imports are no part of a training run.
    program = Path(__file__).with_name("started_run.py").read_text()
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", program, config],
        env={**environment_without_launcher(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the training process of the benchmark failed:\n{done.stderr}")
    moments = json.loads(done.stdout.splitlines()[-1])
    return [after - before for before, after in itertools.pairwise([began, *moments])]

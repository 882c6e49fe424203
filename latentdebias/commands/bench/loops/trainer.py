"""The loop of `latentdebias train`, for a comparison."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from latentdebias.commands.bench.loops.levers import Lever
from latentdebias.commands.bench.loops.workload import RunSteps, Workload
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.trainer import TrainState


@contextmanager
def loop(workload: Workload, lever: Lever | None = None) -> Iterator[RunSteps]:
    """The whole trainer with data, averages, log and watchdog as `latentdebias train` has them, changed by `lever`."""
    lever = lever or Lever()
    with lever.around(), redirect_stdout(sys.stderr):
        config = workload.config("loop", ("training.log_every=10", *lever.changes))
        run = Run(prepare(config))
        with run.training(TrainState(), config.training.steps) as train:

            def steps(count: int) -> None:
                with lever.around():
                    train(count)

            yield steps

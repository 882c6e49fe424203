"""Run under a launcher by test_nan.py: at every ZeRO stage, the second backward pass of rank 1 alone gives NaN."""

import sys

from latentdebias import distributed
from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.engine import start_distributed, stop_distributed


def poison_second_backward(run):
    backward, calls = run.engine.backward, []

    def poisoned(loss):
        calls.append(1)
        backward(loss * float("nan") if len(calls) == 2 else loss)

    run.engine.backward = poisoned


folder, *overrides = sys.argv[1:]
start_distributed()
for stage in range(4):
    changes = [f"run_dir={folder}/stage{stage}", f"deepspeed.zero_optimization.stage={stage}"]
    config = load_config("digits_debias.yaml", [*overrides, *changes])
    run = Run(prepare(config))
    if distributed.rank() == 1:
        poison_second_backward(run)
    run.train()
stop_distributed()

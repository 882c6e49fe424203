"""Between logging steps the host does not wait for the GPU."""

import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from run_files import STAGES, stage

FIRST, LAST = 6, 9


def between(run, begin, end):
    """Call `begin` after the update of step FIRST and `end` after that of step LAST, with no logging step between."""
    update = run.ema.update

    def counted(step):
        update(step)
        if step == FIRST:
            begin()
        elif step == LAST:
            end()

    run.ema.update = counted


def make_ten_steps(make_run, *overrides):
    return make_run("training.steps=10", "training.log_every=5", "training.checkpoint_every=100", *overrides)


def test_no_operation_of_stage_0_waits(make_run):
    """torch raises at the first operation that would."""
    run = make_ten_steps(make_run, stage(0))
    between(run, lambda: torch.cuda.set_sync_debug_mode("error"), lambda: torch.cuda.set_sync_debug_mode("default"))
    try:
        run.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("number", STAGES)
def test_no_operation_of_ours_waits(make_run, number):
    """From stage 1 on DeepSpeed itself looks at each update's gradient norm."""
    run = make_ten_steps(make_run, stage(number))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        between(run, lambda: torch.cuda.set_sync_debug_mode("warn"), lambda: torch.cuda.set_sync_debug_mode("default"))
        try:
            run.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in caught if "synchronizing CUDA operation" in str(each.message)]
    assert not [each.filename for each in waits if "latentdebias" in Path(each.filename).parts]


@pytest.mark.parametrize("number", STAGES)
def test_the_device_is_not_synchronized(make_run, monkeypatch, number):
    callers, counting, synchronize = Counter(), [], torch.cuda.synchronize

    def counted(*device):
        if counting:
            frames, frame = [], sys._getframe(1)
            while frame is not None:
                frames.append(Path(frame.f_code.co_filename).name)
                frame = frame.f_back
            callers[next(name for name in frames if name != "cuda_accelerator.py")] += 1
        synchronize(*device)

    monkeypatch.setattr(torch.cuda, "synchronize", counted)
    run = make_ten_steps(make_run, stage(number))
    between(run, lambda: counting.append(True), counting.clear)
    run.train()
    # Stage 3 gathers the small weights that it keeps whole after each update, and waits for that.
    assert callers.keys() <= ({"partition_parameters.py"} if number == 3 else set())

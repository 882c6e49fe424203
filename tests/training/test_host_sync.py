"""The loop reads nothing back from the device between logging steps."""

import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

STEPS, LOG_EVERY = 10, 5
READERS = ("/latentdebias/", "/deepspeed/", "/torch/optim/", "/tests/")


class CountReads(TorchDispatchMode):
    """Counts, by who does it, what makes a host wait for its GPU: a number, or a shape, that depends on values."""

    READS = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self):
        super().__init__()
        self.reads = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.READS:
            self.reads[_reader()] += 1
        return func(*args, **(kwargs or {}))


def _reader():
    """The innermost of READERS that the call comes from."""
    frame = sys._getframe(2)
    while not any(reader in frame.f_code.co_filename for reader in READERS):
        frame = frame.f_back
    return next(reader for reader in READERS if reader in frame.f_code.co_filename)


def reads_by_step(run):
    """Reads from the end of one step's update to the end of the next one's, by the latter's number; batches too."""
    counter, totals = CountReads(), []
    update = run.ema.update

    def counted(step):
        update(step)
        totals.append(counter.reads.copy())

    run.ema.update = counted
    with counter:
        run.train()
    return {step: totals[step - 1] - totals[step - 2] for step in range(2, STEPS + 1)}


@pytest.mark.parametrize(("zero_stage", "reads_of_deepspeed"), [(0, 0), (1, 2), (2, 2), (3, 1)])
def test_no_number_is_read_outside_logging_steps(make_run, zero_stage, reads_of_deepspeed):
    """From stage 1 on DeepSpeed itself looks at each update's gradient norm."""
    run = make_run(
        f"training.steps={STEPS}",
        f"training.log_every={LOG_EVERY}",
        "training.checkpoint_every=100",
        f"deepspeed.zero_optimization.stage={zero_stage}",
    )
    reads = reads_by_step(run)
    after_logging = reads[LOG_EVERY + 1]
    assert after_logging["/latentdebias/"] > 0
    # Stage 3 records the order of the modules in its first steps.
    for step in range(LOG_EVERY + 2, STEPS + 1):
        assert reads[step]["/latentdebias/"] == 0
        assert reads[step]["/deepspeed/"] == reads_of_deepspeed
        # The unfused Adam of a CPU reads its counters of steps, which are on the CPU on any device.
        assert reads[step].keys() <= {"/deepspeed/", "/torch/optim/"}

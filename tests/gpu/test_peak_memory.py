"""The most memory that a run takes on a GPU against what `latentdebias plan` counts."""

import gc

import pytest
import torch

from latentdebias.plan import plan_run
from latentdebias.training.trainer import TrainState

# 150 million weights, 0.6 GB, beside which what CUDA's libraries take is small.
LARGE = [
    "model.width=1024",
    "model.depth=8",
    "model.heads=16",
    "training.batch_size=8",
    "training.micro_batch_size=4",
    "training.checkpoint_every=100",
]


@pytest.mark.parametrize("bucket", [10_000_000, 500_000_000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_peak_is_within_a_tenth_of_the_plan(make_run, zero_stage, precision, bucket):
    gc.collect()
    before = torch.cuda.memory_allocated()
    options = [f"stage={zero_stage}", f"reduce_bucket_size={bucket}"]
    run = make_run(
        *LARGE, f"training.precision={precision}", *(f"deepspeed.zero_optimization.{option}" for option in options)
    )
    plan, state = plan_run(run.config, 1), TrainState()
    with run.training(state, 3) as train:
        train(2)
        torch.cuda.reset_peak_memory_stats()
        train(1)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken == pytest.approx(plan.states[zero_stage].peak(plan.activations.kept), rel=0.1)

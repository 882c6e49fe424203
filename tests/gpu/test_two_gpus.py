"""Two ranks with a GPU each."""

import json

import pytest
from run_files import in_folder, stage
from two_ranks import on_two_ranks, outlast_the_timeout, train_with_slow_updates

pytestmark = pytest.mark.usefixtures("two_gpus")


def test_a_hook_may_outlast_the_timeout_of_the_steps(tmp_path):
    on_two_ranks(outlast_the_timeout, tmp_path / "sum.json")
    assert json.loads((tmp_path / "sum.json").read_text()) == 2


@pytest.mark.parametrize("number", [2, 3])
def test_no_weight_is_gathered_before_a_slow_update_is_done(small_run, tmp_path, number):
    """At stage 3 a forward pass that is faster than the update before it would be one with old weights."""
    # Weights that stage 3 keeps whole are gathered with a wait for the device.
    kept = ["deepspeed.zero_optimization.stage3_param_persistence_threshold=0"] if number == 3 else []
    same = [*small_run, stage(number), *kept, "optimizer.lr=0.01", "training.log_every=4"]
    losses = []
    for name, cycles in (("fast", 0), ("slow", 500_000_000)):
        on_two_ranks(train_with_slow_updates, [*same, in_folder(tmp_path, name)], cycles)
        [row] = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses.append(row["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

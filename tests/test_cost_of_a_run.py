"""What a run will cost, against counts by hand and against a run's own tensors."""

import pytest
import torch

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.plan import plan_run, sample_bytes, state_bytes, training_days
from latentdebias.prepare import build_backbone, prepare
from latentdebias.run import Run
from latentdebias.shards.reader import LatentShards

DIT_S = [
    "model.name=dit_s_patch2",
    "diffusion.variance=fixed",
    "training.batch_size=256",
    "training.micro_batch_size=16",
    "data.shards=/nowhere",
]
# By hand: blocks 12 (12 w^2 + 9 w + 6 (w^2 + w)), positions 256 w, patches 16 w + w, times 256 w + w + w^2 + w,
# classes 1001 w, the last layer 2 (w^2 + w) + 16 w + 16; w = 384.
WIDTH = 384
PARAMETERS_OF_DIT_S = (
    12 * (18 * WIDTH**2 + 15 * WIDTH) + 3 * WIDTH**2 + (256 + 17 + 256 + 2 + 1001 + 2 + 16) * WIDTH + 16
)


def plan_of(*overrides: str, gpus: int = 8):
    return plan_run(load_config("imagenet256_debias.yaml", [*DIT_S, *overrides]), gpus)


def test_a_config_alone_is_enough():
    plan = plan_of()
    assert plan.parameters == PARAMETERS_OF_DIT_S == pytest.approx(33.0e6, rel=2e-3)
    assert plan.flops.training() / 1e9 == pytest.approx(36.3, rel=2e-3)
    assert plan.micro_batch_size == 16


def test_states_are_a_whole_at_stage_0_and_a_share_above():
    states, whole = plan_of().states, 4 * PARAMETERS_OF_DIT_S
    assert states[0].total == 5 * whole
    assert [each.weights for each in states] == [whole, whole, whole, whole // 8]
    assert [each.optimizer for each in states] == [3 * whole, whole // 2, whole // 2, whole // 2]
    assert states[2].gradients == states[3].gradients == whole // 8
    assert [each.buffers for each in states] == [0, 2_000_000_000, 2_000_000_000, whole]
    assert states[3].total < states[0].total


def test_raw_options_change_the_buffers():
    options = ["reduce_bucket_size=1000", "stage3_max_live_parameters=2000"]
    small = plan_of(*(f"deepspeed.zero_optimization.{option}" for option in options)).states
    assert [each.buffers for each in small] == [0, 4000, 4000, 8000]
    assert small[0].total > small[1].total > small[2].total > small[3].total


def test_deepspeeds_estimate_is_18_bytes_a_parameter_shared_and_2_whole():
    states = plan_of().states
    assert [each.deepspeed for each in states[:2]] == [None, None]
    assert states[2].deepspeed == pytest.approx((2 + 18 / 8) * PARAMETERS_OF_DIT_S, rel=1e-6)
    assert states[3].deepspeed > 18 / 8 * PARAMETERS_OF_DIT_S


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_run_holds_the_states_that_were_counted(small_run, process_group, zero_stage):
    """One rank, after updates; gradients and buffers come and go within one."""
    changes = ["training.steps=1", f"deepspeed.zero_optimization.stage={zero_stage}", "training.precision=bf16"]
    config = load_config("digits_debias.yaml", [*small_run, *changes])
    run = Run(config, prepare(config))
    with torch.device("meta"):
        expected = state_bytes(build_backbone(config, run.shapes), zero_stage, 1, 1, {})
    run.train()
    assert _held(run) == pytest.approx(expected.weights + expected.optimizer, rel=0.05)


def _held(run):
    engine = run.engine.deepspeed
    adamw = getattr(engine.optimizer, "optimizer", engine.optimizer)
    parameters = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    moments = [value for state in adamw.state.values() for value in state.values() if torch.is_tensor(value)]
    averages = [tensor for average in run.ema.averages.values() for tensor in average]
    tensors = [*parameters, *moments, *run.zero_state.partitions, *averages]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_shards_are_as_large_as_predicted(digit_shards):
    written = sum(path.stat().st_size for path in digit_shards.glob("*.tar"))
    shards = LatentShards(digit_shards)
    assert len(shards) * sample_bytes(shards.latent_shape, 2) == pytest.approx(written, rel=0.02)
    assert sample_bytes((4, 32, 32), 1) == 19_456
    assert sample_bytes((4, 32, 32), 2) == 36_864


def test_days_are_operations_over_rate():
    assert training_days(10, 8640, 1.0) == 1.0


def test_a_batch_that_cannot_be_dealt_is_refused():
    with pytest.raises(UserError, match="not a multiple of 48"):
        plan_of(gpus=3)


def test_without_stated_shapes_the_shards_are_asked(digit_shards):
    config = load_config("digits_debias.yaml", ["data.latent_shape=null", f"data.shards={digit_shards}"])
    assert plan_run(config, 1).shapes.latent_shape == (4, 4, 4)
    with pytest.raises(UserError):
        plan_run(load_config("digits_debias.yaml", ["data.latent_shape=null", "data.shards=/nowhere"]), 1)

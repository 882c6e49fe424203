"""What a run will cost, against counts by hand and against a run's own tensors."""

import functools
import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from latentdebias.autoencoders import load_autoencoder
from latentdebias.config import CONFIG_DIR, load_config
from latentdebias.errors import UserError
from latentdebias.plan import bucket_bytes, plan_run, state_bytes, training_days
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.trainer import TrainState

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
# A run whose weights are far larger than its activations, and which accumulates.
SMALL_ACTIVATIONS = [
    "model.width=256",
    "model.heads=4",
    "training.batch_size=4",
    "training.micro_batch_size=2",
    "deepspeed.zero_optimization.reduce_bucket_size=500000",
]
PARAMETERS_OF_DIT_S = (
    12 * (18 * WIDTH**2 + 15 * WIDTH) + 3 * WIDTH**2 + (256 + 17 + 256 + 2 + 1001 + 2 + 16) * WIDTH + 16
)


@functools.cache
def plan_of(*overrides: str, gpus: int = 8):
    return plan_run(load_config("imagenet256_debias.yaml", [*DIT_S, *overrides]), gpus)


def test_a_config_alone_is_enough():
    plan = plan_of()
    assert plan.parameters == PARAMETERS_OF_DIT_S == pytest.approx(33.0e6, rel=2e-3)
    assert plan.flops.training() / 1e9 == pytest.approx(36.3, rel=2e-3)
    assert plan.micro_batch_size == 16


def test_states_are_a_whole_at_stage_0_and_a_share_above():
    states, whole = plan_of().states, 4 * PARAMETERS_OF_DIT_S
    # Gradients and their copies come last, and take more than gradients and few activations.
    assert states[0].peak(whole // 2) == 6 * whole
    assert states[0].peak(2 * whole) == 7 * whole
    assert [each.weights for each in states] == [whole, whole, whole, whole // 8]
    assert [each.optimizer for each in states] == [3 * whole, whole // 2, whole // 2, whole // 2]
    assert states[2].gradients == states[3].gradients == whole // 8
    assert [each.host for each in states] == [whole + whole // 2] * 4


def test_a_bucket_for_each_dtype_is_no_larger_than_the_network():
    """In bf16 two of fp32 at the stages 1 and 2, and one of each dtype and its copy at stage 3."""
    whole = 4 * PARAMETERS_OF_DIT_S
    trained = whole - 4 * 256 * WIDTH  # without the positions
    assert [each.buffers for each in plan_of().states] == [0, 2 * trained, 2 * trained, whole + 3 * trained]
    fp32 = plan_of("training.precision=fp32").states
    assert [each.buffers for each in fp32] == [0, trained, trained, whole + 2 * trained]


def test_raw_options_change_the_buffers():
    options = ["reduce_bucket_size=1000", "stage3_max_live_parameters=2000"]
    small = plan_of(*(f"deepspeed.zero_optimization.{option}" for option in options)).states
    assert [each.buffers for each in small] == [0, 8000, 8000, 8000 + 12_000]
    assert small[0].peak(0) > small[1].peak(0) > small[2].peak(0) > small[3].peak(0)
    overlapping = plan_of(*(f"deepspeed.zero_optimization.{each}" for each in [*options, "overlap_comm=true"])).states
    assert [each.buffers for each in overlapping] == [0, 16_000, 16_000, 8000 + 12_000]
    scattered = plan_of("deepspeed.zero_optimization.contiguous_gradients=false").states
    assert scattered[1].buffers == 0


def test_the_optimizer_counts_as_large_as_it_is():
    whole = 4 * PARAMETERS_OF_DIT_S
    lion = plan_of("optimizer={name: timm, opt: lion, lr: 1.0e-4}").states
    assert lion[0].optimizer == 2 * whole


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
    run = Run(prepare(config))
    expected = state_bytes(run.prepared.network.on_meta(), zero_stage, 1, config)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_run_holds_at_most_what_was_counted(make_run, zero_stage, precision):
    """Beyond what is held between updates, as torch's profiler sees it on the CPU."""
    run = make_run(
        *SMALL_ACTIVATIONS, f"deepspeed.zero_optimization.stage={zero_stage}", f"training.precision={precision}"
    )
    plan, state = plan_run(run.config, 1), TrainState()
    counted = plan.states[zero_stage]
    with run.training(state, 3) as train:
        train(2)  # the optimizer allocates its state
        held = _held(run) + (_share_of_stage_3(run) if zero_stage == 3 else 0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            train(1)
    allocations = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = itertools.accumulate(event.nbytes() for event in sorted(allocations, key=lambda event: event.start_ns()))
    assert held + max(running) == pytest.approx(counted.peak(plan.activations.kept), rel=0.1)


def _share_of_stage_3(run):
    """Bytes of the gradients and of the buckets, which stage 3 keeps."""
    buckets = [bucket.buffer.nbytes for bucket in run.engine.deepspeed.optimizer.ipg_buckets.values()]
    return run.engine.deepspeed.optimizer.grad_partitions_flat_buffer.nbytes + sum(buckets)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_deepspeed_has_the_buckets_that_were_counted(make_run, zero_stage, precision):
    run = make_run(
        f"deepspeed.zero_optimization.stage={zero_stage}", f"training.precision={precision}", "training.steps=1"
    )
    optimizer, allocated = run.engine.deepspeed.optimizer, []
    weight = next(iter(run.engine.trained.values()))

    def look(*gradient):
        buffers = [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
        tensors = buffers if zero_stage == 3 else [buffer for each in buffers for buffer in each]
        allocated.append(sum(tensor.nbytes for tensor in tensors))

    weight.register_post_accumulate_grad_hook(look)
    run.train()
    assert set(allocated) == {bucket_bytes(run.prepared.network.on_meta(), zero_stage, run.config)}


@pytest.fixture
def pixel_shards(encode):
    """21 images as uint8 pixels, without mirrored views."""
    return encode("pixels", load_autoencoder("identity"), flips=False)


@pytest.mark.parametrize("name", ["digit_shards", "pixel_shards"])
def test_a_set_that_exists_is_counted_as_it_is(request, name):
    directory = request.getfixturevalue(name)
    unstated = [f"data.{key}=null" for key in ("vae", "resolution", "latent_shape", "num_classes")]
    changes = [*unstated, "data.num_images=5", f"data.shards={directory}"]
    data = plan_run(load_config("digits_debias.yaml", changes), 1).data
    tars = list(directory.glob("*.tar"))
    written = sum(path.stat().st_size for path in tars)
    # Every tar ends in up to 10,240 bytes of zeros.
    assert written - 10_240 * len(tars) <= data.images * data.bytes_per_image <= written
    assert str(directory) in data.bytes_from
    assert str(directory) in data.images_from


@pytest.mark.parametrize(
    ("config", "changes", "bytes_per_image", "images", "words"),
    [
        ("imagenet256_debias.yaml", ["data.flip=false"], 19_456, 1_281_167, "assumed"),
        ("imagenet256_debias.yaml", [], 36_864, 1_281_167, "assumed"),
        ("ffhq256_debias.yaml", ["data.flip=false", "data.num_classes=2"], 199_680, 70_000, "uint8"),
        ("digits_debias.yaml", ["data.shards=nowhere"], 3_072, 1_797, "'digits'"),
        ("digits_debias.yaml", ["data.shards=nowhere", "data.num_images=null"], 3_072, None, "'digits'"),
    ],
)
def test_a_set_that_is_not_there_is_counted_from_the_config(config, changes, bytes_per_image, images, words):
    small = "model={name: dit, width: 16, depth: 1, heads: 2, patch_size: 4}"
    data = plan_run(load_config(config, [*changes, small]), 1).data
    assert (data.bytes_per_image, data.images) == (bytes_per_image, images)
    assert words in data.bytes_from


def test_a_set_that_is_not_what_the_config_says_is_refused(pixel_shards):
    with pytest.raises(UserError, match=r"data\.vae is 'digits'"):
        plan_run(load_config("digits_debias.yaml", [f"data.shards={pixel_shards}"]), 1)


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIG_DIR.glob("*_*.yaml")))
def test_every_shipped_run_says_how_many_images_it_is_for(config):
    assert load_config(config).data.num_images


def test_days_are_operations_over_rate():
    assert training_days(10, 8640, 1.0) == 1.0


def test_a_batch_that_cannot_be_dealt_is_refused():
    with pytest.raises(UserError, match="not a multiple of 48"):
        plan_of(gpus=3)


def test_without_stated_shapes_the_shards_are_asked(digit_shards):
    config = load_config("digits_debias.yaml", ["data.latent_shape=null", f"data.shards={digit_shards}"])
    assert plan_run(config, 1).network.latent_shape == (4, 4, 4)
    with pytest.raises(UserError):
        plan_run(load_config("digits_debias.yaml", ["data.latent_shape=null", "data.shards=/nowhere"]), 1)

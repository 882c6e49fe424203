"""Averages of the weights in whole runs of one rank: kept, saved, exported, written as snapshots."""

import pytest
import torch
from safetensors.torch import load_file

import latentdebias
from latentdebias.errors import UserError
from latentdebias.models.ema_profiles import gamma_of
from latentdebias.training.ema import EMAOptions, PartitionedEMA

SEVERAL = ["ema.decays=[0.5,0.9]", "ema.stds=[0.05,0.1]", "ema.snapshot_every=2"]
NAMES = ["0.5", "0.9", "std0.050", "std0.100"]


def stage(number):
    return f"deepspeed.zero_optimization.stage={number}"


def exported(run):
    return latentdebias.load_model(run.run_dir / "model").backbone.state_dict()


def whole_average(run, name):
    with run.ema.swapped_in(name):
        return run.zero_state.gathered_weights()


def assert_equal_weights(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_several_averages_follow_their_recurrences():
    """Constant: a <- d a + (1 - d) w. Power function: a <- beta a + (1 - beta) w, beta = (1 - 1/t)^(gamma + 1)."""
    weights = [torch.randn(5), torch.randn(2, 3)]
    ema = PartitionedEMA(weights, EMAOptions(decays=(0.5, 0.9), stds=(0.1,)))
    gamma = gamma_of(0.1)
    expected = {name: [w.clone() for w in weights] for name in ema.averages}
    for step in range(1, 6):
        for weight in weights:
            weight.add_(torch.randn_like(weight))
        ema.update(step)
        decays = {"0.5": 0.5, "0.9": 0.9, "std0.100": (1 - 1 / step) ** (gamma + 1)}
        for name, decay in decays.items():
            expected[name] = [decay * e + (1 - decay) * w for e, w in zip(expected[name], weights, strict=True)]
    assert list(ema.averages) == ["0.5", "0.9", "std0.100"]
    for name, average in ema.averages.items():
        for found, reference in zip(average, expected[name], strict=True):
            torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_averages_follow_the_weights_of_a_run(make_run, zero_stage):
    run = make_run(*SEVERAL, "training.steps=3", stage(zero_stage))
    expected, update = [p.clone() for p in run.zero_state.partitions], run.ema.update

    def recorded(step):
        update(step)
        for average, weights in zip(expected, run.zero_state.partitions, strict=True):
            average.lerp_(weights, 0.5)

    run.ema.update = recorded
    run.train()
    assert list(run.ema.averages) == NAMES
    for average, reference in zip(run.ema.averages["0.5"], expected, strict=True):
        torch.testing.assert_close(average, reference)


@pytest.mark.parametrize("name", [*NAMES, "none"])
def test_swapping_an_average_in_and_out_leaves_the_weights(make_run, name):
    run = make_run(*SEVERAL)
    for averages in run.ema.averages.values():
        averages[0].fill_(0.25)
    before = [p.clone() for p in run.zero_state.partitions]
    with run.ema.swapped_in(name):
        assert (run.zero_state.partitions[0] == 0.25).all() == (name != "none")
    assert all(torch.equal(a, b) for a, b in zip(before, run.zero_state.partitions, strict=True))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_every_average_is_exported_on_demand(make_run, zero_stage):
    run = make_run(*SEVERAL, stage(zero_stage))
    run.train()
    expected = {name: whole_average(run, name) for name in [*NAMES, "none"]}
    assert_equal_weights(exported(run), expected["0.5"])
    again = make_run(*SEVERAL, stage(zero_stage))
    for name, weights in expected.items():
        again.export(name)
        assert_equal_weights(exported(again), weights)
        assert latentdebias.load_model(run.run_dir / "model").config.ema == name


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_averages_and_snapshots_are_the_same_bits_after_a_resume(make_run, tmp_path, zero_stage):
    whole = make_run(*SEVERAL, stage(zero_stage), f"run_dir={tmp_path / 'whole'}")
    whole.train()
    parts = [*SEVERAL, stage(zero_stage), f"run_dir={tmp_path / 'parts'}"]
    make_run(*parts, "training.steps=2").train()
    resumed = make_run(*parts)
    resumed.train()
    for name in NAMES:
        for left, right in zip(whole.ema.averages[name], resumed.ema.averages[name], strict=True):
            assert torch.equal(left, right)
    left, right = ({path.name: path.read_bytes() for path in snapshots_of(run)} for run in (whole, resumed))
    assert left == right


def snapshots_of(run):
    return sorted((run.run_dir / "ema").glob("*.safetensors"))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_snapshots_are_whole_averages_in_half_precision(make_run, zero_stage):
    run = make_run(*SEVERAL, stage(zero_stage))
    run.train()
    names = [f"step-0000000{step}-std{std}.safetensors" for step in (2, 4) for std in ("0.050", "0.100")]
    assert [path.name for path in snapshots_of(run)] == names
    for path, name in zip(snapshots_of(run)[2:], NAMES[2:], strict=True):
        expected = {key: weight.half() for key, weight in whole_average(run, name).items()}
        assert_equal_weights(load_file(path), expected)


def test_snapshots_of_steps_that_are_trained_again_are_dropped(make_run):
    run = make_run(*SEVERAL)
    run.train()
    stale = run.run_dir / "ema" / "step-00000008-std0.050.safetensors"
    snapshots_of(run)[0].rename(stale)
    make_run(*SEVERAL).train()
    assert [path.name[:13] for path in snapshots_of(run)] == ["step-00000002", "step-00000004", "step-00000004"]


def test_an_average_that_the_run_does_not_keep_is_refused_with_those_it_keeps():
    options = EMAOptions(decays=(0.999,), stds=(0.05,))
    with pytest.raises(UserError, match=r"Did you mean 'std0.050'.*0\.999, none, std0\.050"):
        options.choose("std0.05")
    assert options.choose(None) == "0.999"
    assert EMAOptions(decays=(), stds=(0.05,)).choose(None) == "std0.050"


def test_a_run_of_other_averages_does_not_resume(make_run):
    make_run(*SEVERAL, "training.steps=2").train()
    with pytest.raises(UserError, match=r"ema\.stds: \[0\.05, 0\.1\] there, \[0\.05\] now"):
        make_run(*SEVERAL, "ema.stds=[0.05]").train()

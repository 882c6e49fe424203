"""Properties of what is read and computed, over inputs that hypothesis draws."""

import contextlib
import math

import numpy as np
import pytest
import torch
import yaml
from fuzz_targets import npy, tar
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latentdebias.config import load_config
from latentdebias.diffusion import SCHEDULES, TIMESTEP_SAMPLERS
from latentdebias.errors import UserError
from latentdebias.files import parse_json, parse_yaml
from latentdebias.images.tars import tar_members
from latentdebias.prepare import describe_model, network_of
from latentdebias.sampling.guidance import CfgRule, CfgZeroRule, Guidance
from latentdebias.shards.format import INDEX_DTYPE, Plan, ShardRecord
from latentdebias.shards.index_file import checked_index

settings.register_profile("few", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("few")

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
KEYS = ["training.steps", "optimizer.lr", "diffusion.weighting", "model", "data.num_classes", "run_dir", "hooks", "ema"]


@given(NESTED)
def test_yaml_is_read_as_it_was_written(value):
    assert parse_yaml(yaml.safe_dump(value)) == value


@given(st.text())
def test_any_text_is_yaml_and_json_or_is_refused(text):
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(ValueError):
            parse(text)


@given(st.sampled_from(KEYS), NESTED)
def test_a_config_takes_any_value_or_refuses_it_by_its_place(key, value):
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    try:
        config = load_config("digits_debias.yaml", [f"{key}={text}"])
    except UserError as error:
        refused = str(error)
    else:
        refused = key
        assert load_config("digits_debias.yaml", [f"{key}={text}"]) == config
    assert key.partition(".")[0] in refused


def size_of(override):
    config = load_config("digits_debias.yaml", [override])
    return describe_model(config, network_of(config, (4, 4, 4), 10))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('data.shards="a\\0b"', "'data.shards'.*NUL"),
        ('run_dir="\\ud800"', "'run_dir'.*half a character"),
        ("data.num_classes=1000000000000", "'data.num_classes'"),
        (f"data.num_classes={10**30}", "'data.num_classes'.*above 64"),
        ("optimizer.lr=.inf", "'lr'.*finite"),
        ("ema.decays=[.nan]", "decays"),
        ("training.grad_clip=.inf", "'training.grad_clip'.*finite"),
        ("model={name: dit, width: 1000000000000000, heads: 1}", "."),
    ],
)
def test_the_kinds_that_had_ended_in_a_traceback(override, words):
    with pytest.raises(UserError, match=words):
        size_of(override)


def test_a_name_too_long_for_a_file_is_no_config():
    with pytest.raises(UserError, match="There is no config"):
        load_config("a" * 5000)


def test_a_sampler_may_be_infinite_where_its_paper_is():
    config = load_config("digits_debias.yaml", ["sampling.sampler={name: heun, s_tmax: .inf}"])
    assert config.sampling.sampler.s_tmax == math.inf


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\:."), min_size=1, max_size=20)


@given(st.dictionaries(NAMES, st.binary(max_size=900), min_size=1, max_size=4), st.data())
def test_a_tar_gives_its_members_and_a_cut_one_is_refused(tmp_path_factory, members, data):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    content = tar(members)
    path.write_bytes(content)
    found = {each.name: content[each.image.offset : each.image.offset + each.image.size] for each in tar_members(path)}
    assert found == members
    path.write_bytes(content[: data.draw(st.integers(0, content.rstrip(b"\0").__len__() - 1))])
    with pytest.raises(UserError):
        list(tar_members(path))


PLAN = Plan(
    autoencoder={"id": "a"}, precision="float32", resolution=16, preprocessing="adm", latent_shape=(4, 2, 2),
    flips=False, samples_per_shard=9, num_inputs=9, inputs_sha256="", num_classes=3, class_names=[],
)  # fmt: skip
SIZE = 10_240
OFFSETS = st.integers(640, SIZE - 64)
ROWS = st.lists(st.tuples(OFFSETS, st.just(-1) | OFFSETS, st.integers(-1, 2)), max_size=5)


@given(ROWS)
def test_an_index_is_read_as_it_was_written(rows):
    index = np.array(rows, INDEX_DTYPE)
    assert np.array_equal(checked_index(npy(index), ShardRecord("a", len(rows), SIZE, ""), PLAN), index)


@given(ROWS.filter(bool), st.integers(0, 10**6), st.binary(min_size=1, max_size=9))
def test_a_changed_index_is_refused_or_stays_inside_its_tar(rows, at, change):
    data = bytearray(npy(np.array(rows, INDEX_DTYPE)))
    at %= len(data)
    data[at : at + len(change)] = change
    try:
        found = checked_index(bytes(data), ShardRecord("a", len(rows), SIZE, ""), PLAN)
    except ValueError:
        return
    for name in ("latent", "flip"):
        assert ((found[name] == -1) * (name == "flip") | (found[name] >= 640) & (found[name] <= SIZE - 64)).all()


PREDICTIONS = st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=8).map(
    lambda numbers: torch.tensor(numbers).view(1, 2, 2, 2)
)
SCALES = st.floats(-5, 20)


@given(PREDICTIONS, PREDICTIONS, SCALES)
def test_guidance_is_on_the_line_through_both_predictions(strong, weak, scale):
    rule = CfgRule()
    torch.testing.assert_close(rule.combine(strong, weak, 1.0), strong, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rule.combine(strong, strong, scale), strong, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rule.combine(strong, weak, scale) - weak, scale * (strong - weak), rtol=1e-3, atol=1e-3)
    zero = CfgZeroRule().combine(strong, weak, 0.0)
    # What is left at scale 0 is the projection: the rest is at right angles to it.
    assert ((strong - zero) * weak).sum().abs() <= 1e-2 * (1 + weak.square().sum())


@given(SCALES, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_guidance_is_none_outside_its_interval_and_the_scale_inside(scale, low, high, position):
    found = Guidance(scale, interval=(low, high)).scale_at(position)
    assert found == pytest.approx(scale) if low <= position <= high else found == 1


CONTINUOUS = st.one_of(
    st.builds(lambda shift: {"name": "flow", "shift": shift}, st.floats(0.1, 10)),
    st.builds(lambda shift: {"name": "trig", "shift": shift}, st.floats(0.1, 10)),
    st.builds(lambda mu, b: {"name": "laplace", "mu": mu, "b": b}, st.floats(-3, 3), st.floats(0.2, 2)),
    st.builds(lambda low, span: {"name": "edm", "sigma_min": low, "sigma_max": low * span}, st.floats(1e-3, 1),
              st.floats(2, 1e4)),
)  # fmt: skip


@given(CONTINUOUS, st.lists(st.floats(0.02, 0.98), min_size=2, max_size=9, unique=True))
def test_a_schedule_only_adds_noise_and_finds_its_levels_again(spec, shares):
    u = torch.tensor(sorted(shares), dtype=torch.float64)
    assume((u.diff() > 1e-6).all())
    schedule = SCHEDULES.build(spec)
    level = schedule.level(schedule.from_unit(u), torch.float64)
    assert (level.log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.unit_at(level.ratio), u, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(schedule.from_model_time(schedule.model_time(u)), u, rtol=1e-6, atol=1e-6)


@given(st.sampled_from([name for name in TIMESTEP_SAMPLERS.names() if name != "stratified"]), CONTINUOUS)
def test_timesteps_stay_on_the_schedule(name, spec):
    u = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.linspace(0.01, 0.99, 20)])
    found = TIMESTEP_SAMPLERS.build(name).positions(u, torch.zeros_like(u), 1, SCHEDULES.build(spec))
    assert ((found >= 0) & (found <= 1)).all()

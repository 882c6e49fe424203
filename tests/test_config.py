from pathlib import Path

import pytest
import torch

from latentdebias.config import CONFIG_DIR, RunConfig, load_config, write_config
from latentdebias.config.reference import reference
from latentdebias.diffusion import WEIGHTINGS, Diffusion
from latentdebias.errors import UserError
from latentdebias.prepare import check_times, describe_model, network_of, stated_network
from latentdebias.training.optimizers import AdamW

SHIPPED = sorted(path.name for path in CONFIG_DIR.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_parses_and_builds(name):
    config = load_config(name)
    config.diffusion.build()
    network = stated_network(config) or network_of(config, (4, 32, 32), 1000)
    assert "M parameters on latents" in describe_model(config, network)


def test_base_is_written_from_the_options_own_definitions():
    """A key left out of base.yaml, or another default there, would be one that nobody can read."""
    text = (CONFIG_DIR / "base.yaml").read_text()
    assert text == reference(), "write it anew: python -m latentdebias.config.reference > configs/base.yaml"
    assert load_config("base.yaml") == RunConfig()


def test_imagenet_debias_is_the_papers_setting_on_dit_xl_2():
    config = load_config("imagenet256_debias.yaml")
    assert config.model_name == "dit_xl_patch2"
    parts = Diffusion("linear", "eps", "debias", variance="learned_range").spec()
    assert config.diffusion.build().spec() == parts
    assert "675.1M parameters" in describe_model(config, stated_network(config))


@pytest.mark.parametrize(("variance", "out_chans"), [("fixed", 4), ("learned_range", 8)])
def test_a_learned_variance_doubles_the_channels_of_the_networks_answer(variance, out_chans):
    config = load_config("digits_debias.yaml", [f"diffusion.variance={variance}"])
    backbone = stated_network(config).build()
    assert backbone(torch.zeros(2, 4, 4, 4), torch.zeros(2), None).shape == (2, out_chans, 4, 4)


def test_a_table_of_times_is_refused_where_the_schedule_has_others():
    changes = ["model.name=diffusion_vit_small_patch2", "diffusion.schedule=edm"]
    config = load_config("digits_debias.yaml", changes)
    with pytest.raises(UserError, match=r"model\.time_embedding=sinusoid"):
        check_times(config, config.diffusion.build())
    for change in ("model.time_embedding=sinusoid", "diffusion.schedule=linear"):
        mended = load_config("digits_debias.yaml", [*changes, change])
        check_times(mended, mended.diffusion.build())


def test_a_written_config_reads_back_the_same(tmp_path):
    config = load_config("digits_debias.yaml", ["training.steps=7"])
    write_config(config, tmp_path / "config.yaml")
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=3", "Unknown key 'training.stepz'"),
        ("training.stepz=3", "Did you mean 'steps'"),
        ("trainin.steps=3", "Did you mean 'training'"),
        ("training.steps=many", "'many'"),
        ("training.steps=0", "greater than 0"),
        ("training.precision=fp8", "'fp8'"),
        ("data.shard=x", "Did you mean 'shards'"),
        ("steps", "key.sub=value"),
    ],
)
def test_bad_overrides_name_the_key_and_the_nearest_legal_one(override, words):
    with pytest.raises(UserError) as error:
        load_config("digits_debias.yaml", [override])
    assert words in str(error.value)


def test_a_part_of_another_name_takes_no_fields_along():
    config = load_config("digits_debias.yaml", ["model.name=dit_s_patch2"])
    assert config.model_name == "dit_s_patch2"
    config = load_config("digits_debias.yaml", ["model.depth=2"])
    assert config.model.width == 96
    assert config.model.depth == 2


def test_fields_of_a_named_part_can_be_set():
    config = load_config("digits_debias.yaml", ["diffusion.weighting=min_snr", "diffusion.weighting.gamma=3"])
    assert config.diffusion.weighting == WEIGHTINGS.build({"name": "min_snr", "gamma": 3})


@pytest.mark.parametrize(
    ("overrides", "scale", "interval"),
    [
        (["sampling.guidance.interval=[0,0.8]"], 1.5, (0, 0.8)),
        (["sampling.guidance=2", "sampling.guidance.interval=[0,0.8]"], 2, (0, 0.8)),
        (["sampling.guidance={scale: 3, interval: [0, 0.8]}", "sampling.guidance=2"], 2, (0, 0.8)),
    ],
)
def test_guidance_is_set_as_a_number_and_by_its_fields(overrides, scale, interval):
    guidance = load_config("digits_debias.yaml", overrides).sampling.guidance
    assert (guidance.scale, guidance.interval) == (scale, interval)


def test_guidance_of_a_file_is_a_number_or_a_mapping_over_that_of_its_base(tmp_path):
    for text, expected in (("2", (2, (0, 1))), ("{interval: [0, 0.8]}", (1.5, (0, 0.8)))):
        (tmp_path / "run.yaml").write_text(f"base: digits_debias.yaml\nsampling: {{guidance: {text}}}\n")
        guidance = load_config(str(tmp_path / "run.yaml")).sampling.guidance
        assert (guidance.scale, guidance.interval) == expected


def test_a_flat_guidance_key_of_version_0_1_names_its_new_place(tmp_path):
    (tmp_path / "run.yaml").write_text("base: digits_debias.yaml\nevaluation: {guidance_rule: cfg}\n")
    with pytest.raises(UserError, match=r"write evaluation\.guidance\.rule"):
        load_config(str(tmp_path / "run.yaml"))
    with pytest.raises(UserError, match=r"write sampling\.guidance\.interval"):
        load_config("digits_debias.yaml", ["sampling.guidance_interval=[0,0.8]"])


def test_yaml_floats_without_a_point_are_numbers():
    assert load_config("digits_debias.yaml", ["training.grad_clip=1e-4"]).training.grad_clip == 1e-4
    config = load_config("digits_debias.yaml", ["optimizer.lr=1e-4"])
    assert config.optimizer == AdamW(lr=1e-4)


def test_an_unknown_config_names_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean 'digits_debias\.yaml'"):
        load_config("digits_debais.yaml")


def test_broken_yaml_and_circular_bases_are_errors(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(tmp_path / "broken.yaml"))
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match="itself as its base"):
        load_config(str(tmp_path / "a.yaml"))


def test_a_config_beside_the_users_own_files_may_inherit_a_shipped_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: digits_debias.yaml\ntraining: {steps: 11}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.training.steps == 11
    assert Path(config.data.shards) == Path("shards/digits")

import dataclasses

import pytest
import torch
import yaml
from draw_options import draw_options

import latentdebias
from latentdebias.autoencoders import load_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.models.model_directory import ModelConfig, save_model


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    model = BACKBONES.build({"name": "dit", "width": 32, "depth": 1, "heads": 2}).build(4, 4, 10)
    torch.nn.init.normal_(model.final_layer.linear.weight)
    return model.eval()


@pytest.fixture
def model_dir(backbone, tmp_path):
    config = ModelConfig(
        model={"name": "dit", "width": 32, "depth": 1, "heads": 2},
        diffusion=Diffusion("cosine", "v", {"name": "min_snr", "gamma": 3.0}).spec(),
        latent_shape=(4, 4, 4),
        num_classes=10,
        class_names=[str(i) for i in range(10)],
        normalization=LatentNormalization((0.0, 0.1, 0.2, 0.3), (1.0, 2.0, 1.0, 1.0)),
        resolution=32,
        autoencoder=load_autoencoder("digits").identity,
        step=5,
        ema="0.9",
    )
    save_model(tmp_path / "model", config, backbone.state_dict())
    return tmp_path / "model"


def test_a_loaded_model_is_the_one_that_was_saved(model_dir, backbone):
    model = latentdebias.load_model(model_dir)
    z, t, y = torch.randn(3, 4, 4, 4), torch.tensor([0.0, 500.0, 999.0]), torch.tensor([0, 9, 10])
    torch.testing.assert_close(model.backbone(z, t, y), backbone(z, t, y))
    assert model.diffusion.spec() == Diffusion("cosine", "v", {"name": "min_snr", "gamma": 3.0}).spec()
    assert model.config.num_classes == 10


def test_the_config_is_readable_yaml_with_all_that_sampling_needs(model_dir):
    config = yaml.safe_load((model_dir / "config.yaml").read_text())
    assert config["diffusion"]["target"] == {"name": "v"}
    assert config["diffusion"]["weighting"]["name"] == "min_snr"
    assert config["autoencoder"]["id"] == "digits"
    assert len(config["normalization"]["mean"]) == 4


def test_saving_again_replaces_the_whole_directory(model_dir, backbone):
    config = dataclasses.replace(latentdebias.load_model(model_dir).config, step=6)
    save_model(model_dir, config, backbone.state_dict())
    assert latentdebias.load_model(model_dir).config.step == 6
    assert sorted(path.name for path in model_dir.parent.iterdir()) == ["model"]


def stated(model_dir, **changes):
    """`config.yaml` of the directory with other values."""
    config = yaml.safe_load((model_dir / "config.yaml").read_text())
    (model_dir / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))


def test_a_linear_schedule_of_version_1_keeps_its_betas(model_dir):
    schedule = {"name": "linear", "num_timesteps": 250}
    stated(model_dir, format_version=1, diffusion={"schedule": schedule, "target": "v"})
    model = latentdebias.load_model(model_dir)
    assert model.diffusion.schedule.betas()[-1] == 0.02
    assert model.config.format_version == 2
    stated(model_dir, format_version=2, diffusion={"schedule": schedule, "target": "v"})
    assert latentdebias.load_model(model_dir).diffusion.schedule.betas()[-1] == 0.08


def test_a_directory_of_a_later_version_is_refused(model_dir):
    stated(model_dir, format_version=3)
    with pytest.raises(UserError, match="format version 3"):
        latentdebias.load_model(model_dir)


def test_another_autoencoder_is_refused(model_dir, tiny_vae_dir):
    with pytest.raises(UserError, match="not the one these latents were made with"):
        latentdebias.load_model(model_dir).image_sampler(str(tiny_vae_dir))


@pytest.mark.parametrize(
    "fault", ["missing", "truncated", "flipped header", "other network", "bad yaml", "unknown key"]
)
def test_damage_is_named(model_dir, fault):
    weights, config = model_dir / "model.safetensors", model_dir / "config.yaml"
    if fault == "missing":
        weights.unlink()
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "flipped header":
        weights.write_bytes(b"\xff" * 16 + weights.read_bytes()[16:])
    elif fault == "other network":
        config.write_text(config.read_text().replace("width: 32", "width: 64"))
    elif fault == "bad yaml":
        config.write_text("model: [")
    else:
        config.write_text(config.read_text() + "colour: red\n")
    with pytest.raises(UserError):
        latentdebias.load_model(model_dir)


def test_a_network_with_learned_variance_comes_back_with_both_halves(model_dir, tmp_path):
    torch.manual_seed(0)
    config = latentdebias.load_model(model_dir).config
    diffusion = Diffusion("linear", "eps", "debias", variance="learned_range").spec()
    backbone = BACKBONES.build(config.model).build(4, 4, 10, out_chans=8).eval()
    torch.nn.init.normal_(backbone.final_layer.linear.weight)
    save_model(tmp_path / "learned", dataclasses.replace(config, diffusion=diffusion), backbone.state_dict())
    model = latentdebias.load_model(tmp_path / "learned")
    z, t, y = torch.randn(2, 4, 4, 4), torch.tensor([3.0, 500.0]), torch.tensor([0, 9])
    assert model.backbone(z, t, y).shape == (2, 8, 4, 4)
    torch.testing.assert_close(model.backbone(z, t, y), backbone(z, t, y))
    images = list(model.image_sampler().draw(torch.tensor([1, 2]), draw_options(sampler="ddpm", steps=3)))
    assert images[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_classes", 5, "num_classes is 5"),
        ("latent_shape", (4, 8, 8), "latent_shape"),
        ("normalization", LatentNormalization((0.0,) * 4, (1.0,) * 4), "normalization"),
    ],
)
def test_autoguidance_by_a_model_of_other_data_is_refused(model_dir, field, value, words):
    model = latentdebias.load_model(model_dir)
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, **{field: value}))
    with pytest.raises(UserError, match=words):
        model.guided_by(other)


def test_autoguidance_needs_the_same_schedule_but_not_the_same_target(model_dir):
    model = latentdebias.load_model(model_dir)
    weaker = dataclasses.replace(model, diffusion=Diffusion("cosine", "eps"))
    assert model.guided_by(weaker).latent_model.weaker.backbone is model.backbone
    with pytest.raises(UserError, match="same schedule"):
        model.guided_by(dataclasses.replace(model, diffusion=Diffusion("linear", "v")))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp", "dpmpp_3m", "unipc"])
def test_images_do_not_depend_on_the_batch_size(model_dir, sampler):
    """Uint8 pixels; a level may differ where a rounding falls the other way."""
    painter, labels = latentdebias.load_model(model_dir).image_sampler(), torch.tensor([3, 7, 3, 7, 1])
    options = [draw_options(sampler=sampler, steps=4, batch_size=size) for size in (5, 2)]
    whole, parts = (torch.cat(list(painter.draw(labels, each))) for each in options)
    assert whole.shape == (5, 3, 32, 32)
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_more_steps_than_the_schedule_has_is_an_error(model_dir):
    painter = latentdebias.load_model(model_dir).image_sampler()
    with pytest.raises(UserError, match="1000"):
        list(painter.draw(torch.tensor([1]), draw_options(steps=1001)))

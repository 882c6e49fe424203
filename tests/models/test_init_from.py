import pytest
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.config import load_config
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.models.init_from import differences, load_initial_weights
from latentdebias.prepare import describe_model, stated_network


def run_config(*overrides):
    small = ["model.width=32", "model.depth=2", "model.heads=2", "model.patch_size=2"]
    return load_config("digits_debias.yaml", [*small, "diffusion.variance=learned_range", *overrides])


def test_training_starts_from_the_weights_of_a_model_directory(random_model, tmp_path):
    model = random_model()
    network = stated_network(run_config()).build()
    load_initial_weights(network, str(tmp_path / "model"))
    for name, weight in model.backbone.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.width=64", r"pos_embed with shape \(1, 4, 32\), and this network's is \(1, 4, 64\)"),
        ("diffusion.variance=fixed", r"final_layer\.linear\.weight with shape \(32, 32\).*\(16, 32\)"),
        ("model.depth=3", r"has no blocks\.2\."),
    ],
)
def test_weights_that_do_not_fit_are_named_before_training(random_model, tmp_path, override, words):
    random_model()
    config = run_config(f"init_from={tmp_path / 'model'}", override)
    with pytest.raises(UserError, match=words):
        describe_model(config, stated_network(config))


def test_a_folder_without_weights_is_an_error(tmp_path):
    config = run_config(f"init_from={tmp_path}")
    with pytest.raises(UserError, match="no model directory"):
        describe_model(config, stated_network(config))


def test_left_out_the_network_is_freshly_initialised():
    network = stated_network(run_config()).build()
    assert type(network) is type(BACKBONES.build("dit_s_patch2").build(4, 4, 10))
    assert not network.final_layer.linear.weight.any()


def test_what_the_weights_were_trained_under_and_the_run_is_not_is_said(random_model, tmp_path):
    model = random_model()
    same = model.config.normalization
    assert differences(str(tmp_path / "model"), model.diffusion, same) == []
    other = LatentNormalization((0.0,) * 4, (2.0,) * 4)
    said = differences(str(tmp_path / "model"), Diffusion("cosine", "v"), other)
    assert [line.split(" under ")[1].split(" ")[0] for line in said] == [
        "data.normalization",
        "diffusion.schedule",
        "diffusion.target",
    ]

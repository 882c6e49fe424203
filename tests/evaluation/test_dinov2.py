import hashlib
import pickle

import pytest
import timm
import torch
from random_sets import random_images
from torch.nn import functional as F

from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.extractors.dinov2 import TIMM_NAMES


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as Meta publishes them: random weights, a mask token, positions for 37 x 37 patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model(TIMM_NAMES["vits14"], img_size=518, num_classes=0).state_dict()
        state["pos_embed"] = torch.randn_like(state["pos_embed"])
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, path)
    return path


def load(path):
    return EXTRACTORS.build({"name": "dinov2", "weights": str(path), "architecture": "vits14"}).load()


@pytest.fixture(scope="module")
def extractor(weights):
    return load(weights)


def test_features_are_the_class_token_at_metas_positions(weights, extractor):
    images = random_images(2, size=224)
    found = extractor(images)
    assert found.features.shape == (2, extractor.num_features) == (2, 384)
    assert found.logits.shape == (2, 0)
    state = torch.load(weights, weights_only=True)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    positions = torch.cat([state["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, 384)], dim=1)
    network = timm.create_model(TIMM_NAMES["vits14"], img_size=224, num_classes=0).eval()
    network.load_state_dict({**{k: v for k, v in state.items() if k != "mask_token"}, "pos_embed": positions})
    pixels = images / 255
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        pixels[:, channel] = (pixels[:, channel] - mean) / std
    with torch.no_grad():
        tokens = network.forward_features(pixels)
    torch.testing.assert_close(found.features, tokens[:, 0], atol=1e-5, rtol=1e-4)


def test_images_of_other_sizes_are_resized(extractor):
    assert extractor(random_images(1, size=40)).features.shape == (1, 384)


def test_the_identity_holds_the_files_sha256_and_the_distance_its_name(weights, extractor):
    assert extractor.identity == f"dinov2-vits14 sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}"
    assert extractor.distance == "fd_dinov2"
    assert not any(weight.requires_grad for weight in extractor.parameters())


def test_missing_weights_name_the_path_the_url_and_the_option(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        EXTRACTORS.build("dinov2").load()
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth") in message
    assert "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth" in message
    assert "--dinov2-weights PATH" in message


class CreatesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1}, protocol=2), "code"])
def test_another_file_is_refused_and_runs_nothing(tmp_path, content):
    trace, path = tmp_path / "code ran", tmp_path / "weights.pth"
    if content == "code":
        torch.save({"pos_embed": CreatesAFile(trace)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="does not hold the weights of DINOv2 vits14"):
        load(path)
    assert not trace.exists()


def test_weights_that_lack_a_layer_are_refused(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    del state["blocks.3.mlp.fc1.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"does not hold the weights of DINOv2 vits14 .*blocks\.3\.mlp\.fc1\.bias"):
        load(tmp_path / "weights.pth")

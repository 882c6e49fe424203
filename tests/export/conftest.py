"""Model directories with random weights."""

from pathlib import Path

import pytest
import torch

from latentdebias.autoencoders import load_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.data.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.export import ModelConfig, load_model, save_model

CHANNELWISE = LatentNormalization((0.3, -0.2, 0.1, 0.5), (1.5, 0.7, 1.0, 2.0))
SMALL_DIT = {"name": "dit", "width": 32, "depth": 2, "heads": 2}


def randomised(network, std=0.2):
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
    return network.eval()


@pytest.fixture
def random_model(tmp_path, tiny_vae_dir):
    """Write and load a model directory of 32x32 images; weights are random, latents those of the tiny autoencoder."""

    def make(
        spec=SMALL_DIT,
        diffusion=None,
        num_classes=10,
        normalization=CHANNELWISE,
        vae=str(tiny_vae_dir),
    ):
        diffusion = diffusion or Diffusion("linear", "eps", variance="learned_range")
        identity = load_autoencoder(vae).identity
        channels, side = identity.channels, 32 // identity.factor
        outputs = diffusion.variance.outputs * channels
        network = randomised(BACKBONES.build(spec).build(side, channels, num_classes, outputs))
        config = ModelConfig(
            model=spec,
            diffusion=diffusion.spec(),
            latent_shape=(channels, side, side),
            num_classes=num_classes,
            class_names=[f"class {label}" for label in range(num_classes)],
            normalization=normalization,
            resolution=32,
            autoencoder=identity,
            step=7,
            ema="0.9999",
        )
        directory = Path(tmp_path, "model")
        save_model(directory, config, network.state_dict())
        return load_model(directory)

    return make

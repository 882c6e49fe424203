"""Model directories with random weights."""

from pathlib import Path

import pytest
from random_models import CHANNELWISE, SMALL_DIT, randomised

from latentdebias.autoencoders import load_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.diffusion import Diffusion
from latentdebias.models.model_directory import ModelConfig, load_model, save_model


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

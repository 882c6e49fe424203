"""An autoencoder whose latents are those of a model: normalisation folded into its outermost convolutions, exactly."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from latentdebias.batches.normalization import LatentNormalization


def fold_normalization(vae: AutoencoderKL, normalization: LatentNormalization) -> AutoencoderKL:
    """A copy of `vae` that encodes to and decodes from normalised latents, with scaling factor 1.

    decode(z) is the old decode(std z + mean), and encode the inverse: both sides have a 1x1 convolution next to the
    latents (it is added where the autoencoder was built without), and a linear map of channels is one more of those.
    """
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    changes = {"scaling_factor": 1.0, "shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True}
    folded = AutoencoderKL.from_config({**config, **changes})
    folded.load_state_dict(vae.state_dict(), strict=False)
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    with torch.no_grad():
        before: Any = vae.post_quant_conv or _identity(len(mean))
        weight = before.weight.double()
        folded.post_quant_conv.weight.copy_(weight * std.double().view(1, -1, 1, 1))
        folded.post_quant_conv.bias.copy_(before.bias.double() + weight[..., 0, 0] @ mean.double())
        # Moments are mean and log-variance: the one moves and shrinks, the other loses log std^2.
        after: Any = vae.quant_conv or _identity(2 * len(mean))
        shrink, move = torch.cat([1 / std, torch.ones_like(std)]), torch.cat([-mean / std, -2 * std.log()])
        folded.quant_conv.weight.copy_(after.weight * shrink.view(-1, 1, 1, 1))
        folded.quant_conv.bias.copy_(after.bias * shrink + move)
    return folded.eval()


def with_scaling_factor(vae: AutoencoderKL, scaling_factor: float) -> AutoencoderKL:
    """`vae` itself, with a scaling factor that a pipeline divides latents by."""
    vae.register_to_config(scaling_factor=scaling_factor, shift_factor=None)
    return vae


def is_one_scale(normalization: LatentNormalization) -> bool:
    """Whether a scaling factor alone can express it."""
    return not any(normalization.mean) and len(set(normalization.std)) == 1


def _identity(channels: int) -> Any:
    conv: Any = nn.Conv2d(channels, channels, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv

"""Autoencoders for diffusers that encode to a model's normalised latents, and decode from them.

The normalisation is folded into the 1x1 convolutions next to the latents, which changes no result.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from latentdebias.batches.normalization import LatentNormalization


def fold_normalization(vae: AutoencoderKL, normalization: LatentNormalization) -> AutoencoderKL:
    """A copy of `vae` that encodes to and decodes from normalised latents (z - mean) / std, with scaling factor 1.

    decode(z) is the old decode(std z + mean), and encode its inverse. Encoder and decoder each have a 1x1 convolution
    next to the latents (one is added where `vae` was built without), and the normalisation, an affine map of each
    channel, is multiplied into it.
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
        # The encoder gives mean and log-variance: (mean - normalization.mean) / std, and log-variance - log std^2.
        after: Any = vae.quant_conv or _identity(2 * len(mean))
        shrink, move = torch.cat([1 / std, torch.ones_like(std)]), torch.cat([-mean / std, -2 * std.log()])
        folded.quant_conv.weight.copy_(after.weight * shrink.view(-1, 1, 1, 1))
        folded.quant_conv.bias.copy_(after.bias * shrink + move)
    return folded.eval()


def with_scaling_factor(vae: AutoencoderKL, scaling_factor: float) -> AutoencoderKL:
    """Set the scaling factor of `vae`, by which a pipeline divides latents before decoding, and return `vae`."""
    vae.register_to_config(scaling_factor=scaling_factor, shift_factor=None)
    return vae


def is_one_scale(normalization: LatentNormalization) -> bool:
    """Whether a scaling factor alone can express the normalisation: mean 0, and one std for all channels."""
    return not any(normalization.mean) and len(set(normalization.std)) == 1


def _identity(channels: int) -> Any:
    conv: Any = nn.Conv2d(channels, channels, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv

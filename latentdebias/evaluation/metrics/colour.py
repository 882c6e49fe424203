"""What colour and what coarse structure images have, as plain statistics of their pixels."""

import torch
from torch import Tensor

CHANNELS = 3
RINGS = 8
"""Frequencies 1 to 8, in cycles per image, whose power is told."""


def colour_statistics(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) -> (B, 3 + 8) float64: the channels' means in levels of 255, and the ring powers.

    A ring's power is that of the image about its mean, |DFT|^2 / (H W)^2, averaged over the channels and the
    frequencies whose distance from zero rounds to the ring's number; 0 for a ring that so small an image lacks.
    """
    pixels = images.double()
    means = pixels.mean((2, 3))
    height, width = pixels.shape[2:]
    spectrum = torch.fft.fft2(pixels - means[..., None, None])
    power = (spectrum.abs() / (height * width)).square().mean(1).flatten(1)
    ring = _ring_of_frequency(height, width, images.device)
    inside = (ring >= 1) & (ring <= RINGS)
    sums = torch.zeros(len(images), RINGS, dtype=torch.float64, device=images.device)
    sums.index_add_(1, ring[inside] - 1, power[:, inside])
    sizes = ring[inside].sub(1).bincount(minlength=RINGS)
    return torch.cat([means, sums / sizes.clamp(min=1)], dim=1)


def _ring_of_frequency(height: int, width: int, device: torch.device) -> Tensor:
    """The rounded distance (H W,) of each of the DFT's frequencies from zero, in cycles per image."""
    vertical, horizontal = (torch.fft.fftfreq(side, 1 / side, device=device) for side in (height, width))
    return torch.hypot(vertical[:, None], horizontal[None]).round().long().flatten()


def colour_difference(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Of two `colour_statistics`: the channel means' difference (3,) in levels, the mean powers' ratio (8,) in dB.

    A ring that either lacks has ratio 0 dB.
    """
    mine, theirs = samples.mean(0), reference.mean(0)
    power, reference_power = mine[CHANNELS:], theirs[CHANNELS:]
    known = (power > 0) & (reference_power > 0)
    decibel = torch.where(known, 10 * (power / reference_power).log10(), torch.zeros_like(power))
    return mine[:CHANNELS] - theirs[:CHANNELS], decibel

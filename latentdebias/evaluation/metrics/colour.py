"""Statistics of images' pixels: mean colour, and power at low spatial frequencies."""

import torch
from torch import Tensor

CHANNELS = 3
RINGS = 8
"""Power is measured at the spatial frequencies 1 to 8, in cycles per image."""


def colour_statistics(images: Tensor) -> Tensor:
    """Colour statistics (B, 3 + 8) float64 of uint8 images (B, 3, H, W): the channels' means, and the ring powers.

    Means are in levels of 0 to 255. Ring r, from 1 to 8, holds the frequencies whose distance from zero rounds to r
    cycles per image; its power is |DFT|^2 / (H W)^2 of the image less its mean, averaged over the ring's frequencies
    and the channels. It is 0 where the image is too small to have such frequencies.
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
    """The distance (H W,) int64 of each DFT frequency from zero, rounded, in cycles per image."""
    vertical, horizontal = (torch.fft.fftfreq(side, 1 / side, device=device) for side in (height, width))
    return torch.hypot(vertical[:, None], horizontal[None]).round().long().flatten()


def colour_difference(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """How samples differ from the reference, of the `colour_statistics` (N, 11) of each.

    Returns the difference (3,) of the mean colours in levels of 0 to 255, and the ratio (8,) of the mean ring powers in
    dB. The ratio is 0 dB for a ring in which one of the sets has no power.
    """
    mine, theirs = samples.mean(0), reference.mean(0)
    power, reference_power = mine[CHANNELS:], theirs[CHANNELS:]
    known = (power > 0) & (reference_power > 0)
    decibel = torch.where(known, 10 * (power / reference_power).log10(), torch.zeros_like(power))
    return mine[:CHANNELS] - theirs[:CHANNELS], decibel

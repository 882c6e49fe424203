"""Colour shift, the failure that weighting the loss by noise level is meant to cure, and the statistics it is from."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half_sample

CHANNELS = 3
RINGS = 8
"""Power is measured at the spatial frequencies 1 to 8, in cycles per image."""


@METRICS.register("colour_shift")
@dataclass(frozen=True)
class ColourShift:
    """How far the mean colour and the low-frequency power of samples are from those of the reference.

    Samples whose colour is off, most with few sampling steps, are the failure that Debias (arXiv:2310.08442) attributes
    to biased estimates of x0 at high noise. The scores come from the pixels (`colour_statistics`), without a network.
    """

    better: ClassVar[dict[str, Better]] = {
        "colour_shift": "lower",
        "colour_shift_red": "nearer to 0",
        "colour_shift_green": "nearer to 0",
        "colour_shift_blue": "nearer to 0",
        "spectrum_shift": "nearer to 0",
    }

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """The shift of each channel in levels of 0 to 255, their root mean square, and the shift of the power in dB.

        `spectrum_shift` is the mean of 10 log10(P / P_r) over frequencies 1 to 8 (cycles per image), with P the power
        of the samples and P_r that of the reference. Empty where either set has no colour statistics, such as
        published moments.
        """
        if samples.colour is None or reference.colour is None:
            return {}
        shift, decibel = colour_difference(samples.colour, reference.colour)
        red, green, blue = shift.tolist()
        return {
            "colour_shift": float(shift.square().mean().sqrt()),
            "colour_shift_red": red,
            "colour_shift_green": green,
            "colour_shift_blue": blue,
            "spectrum_shift": float(decibel.mean()),
        }

    def measure_half_samples(
        self, samples: FeatureSet, reference: FeatureSet, halves: HalfSamples
    ) -> dict[str, list[float]]:
        """The colour shifts of each half, by score's name."""
        # Half samples of a set without its features are quicker to make.
        return measure_each_half_sample(self, samples.without_features(), reference, halves)


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

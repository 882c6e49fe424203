"""Colour shift: the failure that weighting the loss by noise level is meant to cure."""

from dataclasses import dataclass
from typing import ClassVar

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.colour import colour_difference
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half


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

    def measure_halves(self, samples: FeatureSet, reference: FeatureSet, halves: Halves) -> dict[str, list[float]]:
        """The colour shifts of each half, by score's name."""
        # Halves of a set without its features are quicker to make.
        return measure_each_half(self, samples.without_features(), reference, halves)

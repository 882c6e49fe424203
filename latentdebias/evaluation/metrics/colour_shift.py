"""Colour shift: the failure that the weighting of noise levels is about."""

from dataclasses import dataclass
from typing import ClassVar

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.colour import colour_difference
from latentdebias.evaluation.metrics.halves import Halves
from latentdebias.evaluation.metrics.metric import METRICS, Better, measure_each_half


@METRICS.register("colour_shift")
@dataclass(frozen=True)
class ColourShift:
    """How far the mean colour and the low-frequency power of samples are from the data's.

    Colour that drifts from the data's, most with few sampling steps, is the failure that Debias (arXiv:2310.08442) lays
    to biased estimates of x0 at high noise. Needs no network: the images' own pixels (`colour_statistics`).
    """

    better: ClassVar[dict[str, Better]] = {
        "colour_shift": "lower",
        "colour_shift_red": "nearer to 0",
        "colour_shift_green": "nearer to 0",
        "colour_shift_blue": "nearer to 0",
        "spectrum_shift": "nearer to 0",
    }

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """Each channel's shift in levels of 255, their root mean square, and the low frequencies' power in dB.

        `spectrum_shift` is the mean over frequencies 1 to 8 (cycles per image) of 10 log10 of samples' to data's power.
        Empty where either set has no statistics of its pixels, as published moments have none.
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
        """As `MeasuresHalves.measure_halves`; of what it needs alone, which is quicker to take halves of."""
        return measure_each_half(self, samples.without_features(), reference, halves)

"""The metrics; importing this package registers them by name."""

from latentdebias.evaluation.metrics.class_accuracy import ClassAccuracy
from latentdebias.evaluation.metrics.colour import ColourShift
from latentdebias.evaluation.metrics.frechet import FID, SpatialFID
from latentdebias.evaluation.metrics.inception_score import InceptionScore
from latentdebias.evaluation.metrics.kid import KID
from latentdebias.evaluation.metrics.metric import METRICS, Metric
from latentdebias.evaluation.metrics.neighbours import DensityCoverage, PrecisionRecall
from latentdebias.evaluation.moments import Moments

__all__ = [
    "FID",
    "KID",
    "METRICS",
    "ClassAccuracy",
    "ColourShift",
    "DensityCoverage",
    "InceptionScore",
    "Metric",
    "Moments",
    "PrecisionRecall",
    "SpatialFID",
]

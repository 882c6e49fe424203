"""Extractors: networks that turn images into the features that metrics are computed from."""

from latentdebias.evaluation.extractors.dinov2 import DINOv2
from latentdebias.evaluation.extractors.extractor import EXTRACTORS, Extractor, ExtractorSource, Inception
from latentdebias.evaluation.features import Features, FeatureSet

__all__ = ["EXTRACTORS", "DINOv2", "Extractor", "ExtractorSource", "FeatureSet", "Features", "Inception"]

"""Scores of images in pixel space: FID, KID, Inception score, class accuracy, and their protocol."""

from latentdebias.evaluation.class_accuracy import ClassAccuracy
from latentdebias.evaluation.drawn import DrawnImages
from latentdebias.evaluation.evaluator import evaluate, extract
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor
from latentdebias.evaluation.features import Features, FeatureSet
from latentdebias.evaluation.fid import FID
from latentdebias.evaluation.images import (
    EvenlySpaced,
    FolderImages,
    ImageBatch,
    ImageSource,
    NpzImages,
    ShardImages,
    open_images,
    resolution_of,
)
from latentdebias.evaluation.inception_score import InceptionScore
from latentdebias.evaluation.kid import KID
from latentdebias.evaluation.metric import METRICS, Metric
from latentdebias.evaluation.record import ProtocolRecord, SamplingProtocol, record_of

__all__ = [
    "EXTRACTORS",
    "FID",
    "KID",
    "METRICS",
    "ClassAccuracy",
    "DrawnImages",
    "EvenlySpaced",
    "Extractor",
    "FeatureSet",
    "Features",
    "FolderImages",
    "ImageBatch",
    "ImageSource",
    "InceptionScore",
    "Metric",
    "NpzImages",
    "ProtocolRecord",
    "SamplingProtocol",
    "ShardImages",
    "evaluate",
    "extract",
    "open_images",
    "record_of",
    "resolution_of",
]

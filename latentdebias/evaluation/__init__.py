"""Scores of images in pixel space, with their intervals and their protocol."""

from latentdebias.evaluation.class_accuracy import ClassAccuracy
from latentdebias.evaluation.colour_shift import ColourShift
from latentdebias.evaluation.density_coverage import DensityCoverage
from latentdebias.evaluation.dinov2 import DINOv2
from latentdebias.evaluation.drawn import DrawnImages
from latentdebias.evaluation.evaluator import evaluate, extract, extract_over_ranks
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor
from latentdebias.evaluation.features import Features, FeatureSet
from latentdebias.evaluation.fid import FID
from latentdebias.evaluation.gathering import joined_ranks
from latentdebias.evaluation.image_files import FolderImages
from latentdebias.evaluation.images import EvenlySpaced, ImageBatch, ImageSource
from latentdebias.evaluation.inception_score import InceptionScore
from latentdebias.evaluation.intervals import intervals
from latentdebias.evaluation.kid import KID
from latentdebias.evaluation.metric import METRICS, Metric
from latentdebias.evaluation.moments import Moments
from latentdebias.evaluation.npz_images import NpzImages
from latentdebias.evaluation.opening import open_images, resolution_of
from latentdebias.evaluation.precision_recall import PrecisionRecall
from latentdebias.evaluation.record import ProtocolRecord, SamplingProtocol, record_of, resize_of, vae_of
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.scoring import score
from latentdebias.evaluation.sfid import SpatialFID
from latentdebias.evaluation.shard_images import ShardImages

__all__ = [
    "EXTRACTORS",
    "FID",
    "KID",
    "METRICS",
    "ClassAccuracy",
    "ColourShift",
    "DINOv2",
    "DensityCoverage",
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
    "Moments",
    "NpzImages",
    "PrecisionRecall",
    "ProtocolRecord",
    "SamplingProtocol",
    "ShardImages",
    "SpatialFID",
    "evaluate",
    "extract",
    "extract_over_ranks",
    "intervals",
    "joined_ranks",
    "open_images",
    "record_of",
    "reference_features",
    "resize_of",
    "resolution_of",
    "score",
    "vae_of",
]

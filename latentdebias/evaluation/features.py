"""The output of an extractor, for one batch and for a set of images; metrics are computed from it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentdebias.evaluation.moments import Moments, moments_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """An extractor's output for one batch: features (B, D) fp32 and class logits (B, K) fp32, K = 0 without classes.

    `spatial` (B, S) fp32 is a flattened feature map for sFID, or None where the network gives none.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None


@dataclass(frozen=True)
class FeatureSet:
    """An extractor's output for a whole set of N images, on the CPU; `device` is the one that computed it.

    features (N, D) fp32, logits (N, K) fp32; labels (N,) int64 are the images' classes, out of `num_classes`, or
    None. spatial (N, S) fp32 is for sFID and colour (N, 11) float64 is from `colour_statistics`; each may be None.
    `sha256` is over the shapes and uint8 pixels of the images in their order, so it identifies the set whatever the
    batch size was.

    `moments` and `spatial_moments`, where given, may be of more images than the features: published moments, whose
    features may be missing (N = 0), or a set too large to keep all its features. `distance` is the name under which
    the Frechet distance between features of this extractor is reported.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None
    num_classes: int | None
    sha256: str
    spatial: Tensor | None = None
    colour: Tensor | None = None
    moments: Moments | None = None
    spatial_moments: Moments | None = None
    distance: str = "fid"
    device: torch.device = CPU

    @property
    def count(self) -> int:
        """The number of images in the set; 0 where only moments were published, without the number of images."""
        return (self.moments and self.moments.count) or len(self.features)

    @property
    def has_features(self) -> bool:
        """Whether there are features: not for published moments alone, nor from an extractor without a network."""
        return self.features.numel() > 0

    def feature_moments(self) -> Moments:
        """Mean and covariance of the features: `moments` where given, else computed from `features`."""
        return self.moments or moments_of(self.features)

    def spatial_feature_moments(self) -> Moments | None:
        """Mean and covariance of the spatial features; None where the set has neither the features nor the moments."""
        if self.spatial_moments is None and self.spatial is not None:
            return moments_of(self.spatial)
        return self.spatial_moments

    def without_features(self) -> "FeatureSet":
        """The set with only its logits, labels and colour statistics, so that `part` copies little."""
        return replace(self, features=self.features[:, :0], spatial=None, moments=None, spatial_moments=None)

    def part(self, rows: Tensor | slice) -> "FeatureSet":
        """The set of the images in `rows`, whose moments are computed anew; `sha256` stays that of the whole set."""
        return replace(
            self,
            features=self.features[rows],
            logits=self.logits[rows],
            labels=None if self.labels is None else self.labels[rows],
            spatial=None if self.spatial is None else self.spatial[rows],
            colour=None if self.colour is None else self.colour[rows],
            moments=None,
            spatial_moments=None,
        )

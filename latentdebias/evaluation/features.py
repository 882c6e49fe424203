"""What an extractor makes of images, and what the metrics are computed from."""

from dataclasses import dataclass, replace

from torch import Tensor

from latentdebias.evaluation.moments import Moments, moments_of


@dataclass(frozen=True)
class Features:
    """One batch through an extractor: features (B, D) fp32, class logits (B, K) fp32, K 0 without classes.

    `spatial` (B, S) fp32 is a flattened feature map for sFID, None where the network has none.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None


@dataclass(frozen=True)
class FeatureSet:
    """A whole set of images through an extractor, on the CPU.

    features (N, D) fp32, logits (N, K) fp32, labels (N,) int64 or None: the classes the images were drawn
    for, out of `num_classes`. `sha256` is over the shapes and uint8 pixels of the images in their order, so
    it names the set whatever the batch size was. spatial (N, S) fp32 and colour (N, C) float64
    (`colour_statistics`) are None where nothing made them.

    `moments` and `spatial_moments` are given where they are of more images than the features are of: of a
    published set, whose features may be missing (N = 0), or of a set too large to keep. `distance` is the
    name of the Frechet distance between features of this extractor.
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

    @property
    def count(self) -> int:
        """How many images the set is of; 0 where only moments were published, without their number."""
        return (self.moments and self.moments.count) or len(self.features)

    @property
    def has_features(self) -> bool:
        """False of published moments alone, and of an extractor without a network."""
        return self.features.numel() > 0

    def feature_moments(self) -> Moments:
        return self.moments or moments_of(self.features)

    def spatial_feature_moments(self) -> Moments | None:
        """Those of `spatial`; None where there are none."""
        if self.spatial_moments is None and self.spatial is not None:
            return moments_of(self.spatial)
        return self.spatial_moments

    def without_features(self) -> "FeatureSet":
        """Logits, labels and colours alone: parts of it cost little."""
        return replace(self, features=self.features[:, :0], spatial=None, moments=None, spatial_moments=None)

    def part(self, rows: Tensor | slice) -> "FeatureSet":
        """Some of the images, whose moments are their own; `sha256` stays that of the whole set."""
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

"""What an extractor makes of images, and what the metrics are computed from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """One batch through an extractor: features (B, D) fp32 and class logits (B, K) fp32."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class FeatureSet:
    """A whole set of images through an extractor, on the CPU.

    features (N, D) fp32, logits (N, K) fp32, labels (N,) int64 or None: the classes the images were drawn
    for, out of `num_classes`. `sha256` is over the shapes and uint8 pixels of the images in their order, so
    it names the set whatever the batch size was.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None
    num_classes: int | None
    sha256: str

    @property
    def count(self) -> int:
        return len(self.features)

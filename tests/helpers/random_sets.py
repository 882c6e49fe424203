"""Feature sets of random numbers, for tests of metrics."""

import torch

from latentdebias.evaluation.extractors import FeatureSet


def feature_set(features=None, logits=None, labels=None, num_classes=None, **others):
    count = len(features if features is not None else logits)
    return FeatureSet(
        features=features if features is not None else torch.zeros(count, 1),
        logits=logits if logits is not None else torch.zeros(count, 1),
        labels=labels,
        num_classes=num_classes,
        sha256="0" * 64,
        **others,
    )


def gaussian(count, dim, seed):
    """Correlated features with a mean of their own."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=g)
    return torch.randn(count, dim, generator=g) @ mixing + torch.randn(dim, generator=g)


def random_images(count, size, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=g)

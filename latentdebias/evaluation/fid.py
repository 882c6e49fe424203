"""Frechet inception distance."""

from dataclasses import dataclass

from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metric import METRICS

ROWS_AT_ONCE = 4096


class _PassFeatures(nn.Identity):
    """Stands where torchmetrics expects a network; with `num_features` it is not probed by a random image."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


@METRICS.register("fid")
@dataclass(frozen=True)
class FID:
    """|mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) of the features' means and covariances, in float64.

    Heusel et al. 2017 (arXiv:1706.08500), Section 4; computed by torchmetrics from the features of
    torch-fidelity's port of the original network. It is biased by the number of samples: compare only
    scores of equal numbers.
    """

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """{"fid": distance}; lower is better."""
        # Each set is whole on this process, so other ranks must not be waited for.
        fid = FrechetInceptionDistance(_PassFeatures(samples.features.shape[1]), sync_on_compute=False)
        for rows in samples.features.split(ROWS_AT_ONCE):
            fid.update(rows.double(), real=False)
        for rows in reference.features.split(ROWS_AT_ONCE):
            fid.update(rows.double(), real=True)
        return {"fid": float(fid.compute())}

"""The protocol record: a score with everything that another person needs to reproduce it."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metric import METRICS, Metric
from latentdebias.files import publish
from latentdebias.sampling.images import DrawOptions

LIBRARIES = ("torch", "torchmetrics", "torch-fidelity", "diffusers", "timm", "latentdebias")


def library_versions() -> dict[str, str]:
    return {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class SamplingProtocol:
    """How the samples were drawn: all that a model directory's user chose, and whose weights they are."""

    model: str
    sampler: str
    steps: int
    guidance: float
    seed: int
    vae: str
    ema: str
    precision: str = "fp32"

    @classmethod
    def of(cls, model: Path, options: DrawOptions, vae: str, ema: str) -> "SamplingProtocol":
        """The protocol of images drawn from the average `ema` in `model`, decoded by the autoencoder `vae`."""
        return cls(
            model=str(model),
            sampler=str(options.sampler),
            steps=options.steps,
            guidance=options.guidance,
            seed=options.seed,
            vae=vae,
            ema=ema,
            precision=options.precision,
        )


@dataclass(frozen=True)
class ProtocolRecord:
    """One evaluation, as `evaluation.json` holds it.

    The sha256 of samples and reference are `FeatureSet.sha256`. `sampling` is None for images that were
    found rather than drawn. `metrics` holds every metric's options, seeds included.
    """

    scores: dict[str, float]
    metrics: list[dict[str, Any]]
    num_samples: int
    num_reference: int
    samples: str
    samples_sha256: str
    reference: str
    reference_sha256: str
    extractor: str
    sampling: SamplingProtocol | None = None
    versions: dict[str, str] = field(default_factory=library_versions)

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all; `UserError` where `path` cannot be written."""
        publish(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    def line(self) -> str:
        """The scores and the protocol on one printable line."""
        parts = [f"{name} {score:.4g}" for name, score in self.scores.items()]
        parts.append(f"{self.num_samples} samples against {self.num_reference} of {self.reference}")
        parts.append(f"reference sha256 {self.reference_sha256[:12]}")
        if self.sampling is not None:
            s = self.sampling
            weights = "no EMA" if s.ema == "none" else f"EMA {s.ema}"
            parts.append(
                f"{s.sampler} {s.steps} steps, guidance {s.guidance:g}, seed {s.seed}, {s.precision}, {weights}"
            )
            parts.append(f"VAE {s.vae}")
        parts.append(f"extractor {self.extractor}")
        parts.append(", ".join(f"{name} {version}" for name, version in self.versions.items()))
        return " | ".join(parts)


def record_of(
    scores: dict[str, float],
    metrics: Sequence[Metric],
    samples: FeatureSet,
    reference: FeatureSet,
    *,
    samples_path: str,
    reference_path: str,
    extractor: str,
    sampling: SamplingProtocol | None = None,
) -> ProtocolRecord:
    """The record of `scores`, with counts and hashes taken from the sets that were scored."""
    return ProtocolRecord(
        scores=scores,
        metrics=[METRICS.spec_of(metric) for metric in metrics],
        num_samples=samples.count,
        num_reference=reference.count,
        samples=samples_path,
        samples_sha256=samples.sha256,
        reference=reference_path,
        reference_sha256=reference.sha256,
        extractor=extractor,
        sampling=sampling,
    )

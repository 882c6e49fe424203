"""The protocol record: a score with everything that another person needs to reproduce it."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdebias.autoencoders import AutoencoderIdentity
from latentdebias.drawing.image_sampler import DrawOptions
from latentdebias.errors import command
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics.metric import METRICS, Metric
from latentdebias.evaluation.protocol.intervals import Interval
from latentdebias.files import publish, read_json
from latentdebias.images.preprocess import PREPROCESSING
from latentdebias.registry import plain, validate
from latentdebias.sampling import SAMPLERS

NOT_OF_THE_PROTOCOL = {"batch_size"}
LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "diffusers", "timm", "latentdebias")


def library_versions() -> dict[str, str]:
    return {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class SamplingProtocol:
    """How the samples were drawn: all that a model directory's user chose, and whose weights they are.

    `nfe` is the number of network evaluations of the sampler's steps, a guided one counted once, those that `zero_init`
    spares too. `weights_sha256` is of the model's weights, empty while it still trains; `labels` says how they were
    spread over the classes. `other` holds whatever else `DrawOptions` has, such as the guidance's interval.
    """

    model: str
    sampler: str
    steps: int
    guidance: float
    seed: int
    vae: str
    ema: str
    precision: str = "fp32"
    nfe: int | None = None
    autoguidance: str | None = None
    weights_sha256: str = ""
    labels: str = ""
    other: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Path,
        options: DrawOptions,
        vae: str,
        ema: str,
        autoguidance: Path | None = None,
        weights_sha256: str = "",
        labels: str = "",
    ) -> "SamplingProtocol":
        """The protocol of images drawn from the average `ema` in `model`, decoded by the autoencoder `vae`.

        `autoguidance` is the weaker model's directory, where one guides.
        """
        values = plain(dataclasses.asdict(options))
        names = {option.name for option in dataclasses.fields(DrawOptions)} - NOT_OF_THE_PROTOCOL
        own = {each.name for each in dataclasses.fields(cls)}
        return cls(
            model=str(model),
            sampler=str(options.sampler),
            steps=options.steps,
            guidance=options.guidance,
            seed=options.seed,
            vae=vae,
            ema=ema,
            precision=options.precision,
            nfe=SAMPLERS.build(options.sampler).nfe(options.steps),
            autoguidance=None if autoguidance is None else str(autoguidance),
            weights_sha256=weights_sha256,
            labels=labels,
            other={name: values[name] for name in sorted(names - own)},
        )


@dataclass(frozen=True)
class ProtocolRecord:
    """One evaluation, as `evaluation.json` holds it.

    The sha256 of samples and reference are `FeatureSet.sha256`. `sampling` is None for images that were
    found rather than drawn. `metrics` holds every metric's options, seeds included. `resize` says how images were
    brought to the extractor's size. `intervals` holds the ends of the 95% interval of each score that has one, from
    `resamples` halves of the samples.
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
    resize: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    resamples: int = 0
    versions: dict[str, str] = field(default_factory=library_versions)

    @classmethod
    def read(cls, path: Path) -> "ProtocolRecord":
        """The record in a JSON file; `UserError` where there is none."""
        return validate(cls, read_json(path, f"Write one with: {command('evaluate')} --out {path}"), str(path))

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all; `UserError` where `path` cannot be written."""
        publish(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    def line(self) -> str:
        """The scores and the protocol on one printable line."""
        parts = [f"{name} {self.told(name)}" for name in self.scores]
        against = f"{self.num_reference} of" if self.num_reference else "the moments in"
        parts.append(f"{self.num_samples} samples against {against} {self.reference}")
        parts.append(f"reference sha256 {self.reference_sha256[:12]}")
        if self.sampling is not None:
            s = self.sampling
            weights = "no EMA" if s.ema == "none" else f"EMA {s.ema}"
            parts.append(
                f"{s.sampler} {s.steps} steps, guidance {s.guidance:g}, seed {s.seed}, {s.precision}, {weights}"
            )
            parts.append(f"VAE {s.vae}")
            parts += [f"weights sha256 {s.weights_sha256[:12]}"] * bool(s.weights_sha256)
            parts += [f"labels {s.labels}"] * bool(s.labels)
            parts += [f"NFE {s.nfe}"] * (s.nfe is not None)
            parts += [f"autoguidance {s.autoguidance}"] * (s.autoguidance is not None)
            parts += [f"{name} {value}" for name, value in s.other.items()]
        parts.append(f"extractor {self.extractor}")
        parts += [f"resize {self.resize}"] * bool(self.resize)
        parts.append(", ".join(f"{name} {version}" for name, version in self.versions.items()))
        return " | ".join(parts)

    def told(self, name: str) -> str:
        """The score `name`, and its interval in brackets where it has one."""
        score = f"{self.scores[name]:.4g}"
        if name not in self.intervals:
            return score
        low, high = self.intervals[name]
        return f"{score} [{low:.4g}, {high:.4g}]"


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
    resize: str = "",
    intervals: Mapping[str, Interval] | None = None,
    resamples: int = 0,
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
        resize=resize,
        intervals=dict(intervals or {}),
        resamples=resamples,
    )


def resize_of(extractor: Extractor) -> str:
    """How images come to the extractor's size: image files through the crop to one size, all through its own resize."""
    return f"image files by {PREPROCESSING}, then {extractor.resize}"


def vae_of(identity: AutoencoderIdentity) -> str:
    """The autoencoder that decodes, by name and by its weights' sha256; the name alone where it has no weights."""
    return f"{identity.id} sha256:{identity.weights_sha256}" if identity.weights_sha256 else identity.id

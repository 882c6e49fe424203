"""The protocol record: scores with everything that another person needs to reproduce them."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdebias.errors import command
from latentdebias.evaluation.protocol.intervals import Interval, Score
from latentdebias.evaluation.protocol.sampling_protocol import SamplingProtocol, upgraded_sampling
from latentdebias.files import publish, read_json
from latentdebias.registry import validate

LIBRARIES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "diffusers", "timm", "latentdebias")


def library_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """The installed version of each library, or "not installed"."""
    return {name: _version(name) for name in libraries}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class ProtocolRecord:
    """One evaluation, in the form of `evaluation.json`.

    `samples` and `reference` say where the images are; their sha256 are `FeatureSet.sha256`. `sampling` is None where
    it is not known how the samples were drawn. `metrics` holds every metric's options, seeds included. `resize` says
    how images were resized for the extractor. `intervals` holds the (low, high) ends of the 95% interval of each score
    that has one, computed from `resamples` random half samples.
    """

    scores: dict[str, Score]
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
        """The record in a JSON file, which version 0.1.0 may have written; `UserError` where there is none."""
        values = read_json(path, f"Write one with: {command('evaluate')} --out {path}")
        if isinstance(values.get("sampling"), dict):
            values["sampling"] = upgraded_sampling(values["sampling"], str(path))
        return validate(cls, values, str(path))

    def write(self, path: Path) -> None:
        """Write the record as JSON, completely or not at all; `UserError` where `path` cannot be written."""
        publish(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    def line(self) -> str:
        """The scores and the protocol on one printable line."""
        sampling = [] if self.sampling is None else [self.sampling.line()]
        return " | ".join([*(f"{name} {self.told(name)}" for name in self.scores), *self._protocol(sampling)])

    def settings(self) -> list[str]:
        """The protocol as printable lines, a setting each."""
        return self._protocol([] if self.sampling is None else self.sampling.settings())

    def _protocol(self, sampling: list[str]) -> list[str]:
        against = f"{self.num_reference} of" if self.num_reference else "the moments in"
        return [
            f"{self.num_samples} samples against {against} {self.reference}",
            f"reference sha256 {self.reference_sha256[:12]}",
            *sampling,
            f"extractor {self.extractor}",
            *[f"resize {self.resize}"] * bool(self.resize),
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]

    def told(self, name: str) -> str:
        """The score `name` as text, with its interval in brackets where it has one."""
        score = f"{self.scores[name]:.4g}"
        if name not in self.intervals:
            return score
        low, high = self.intervals[name]
        return f"{score} [{low:.4g}, {high:.4g}]"

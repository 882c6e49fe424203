"""A disk cache of the feature sets of references, under a hash of everything that determines them."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.moments import Moments
from latentdebias.files import parse_json, published

FORMAT_VERSION = 1
VARIABLE = "LATENTDEBIAS_CACHE"
OPTIONAL = ("labels", "spatial", "colour")
MOMENTS = ("moments", "spatial_moments")
META = "set"


def default_folder() -> Path:
    """`statistics` below $LATENTDEBIAS_CACHE, or below ~/.cache/latentdebias."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "latentdebias") / "statistics"


@dataclass(frozen=True)
class StatisticsCache:
    """A folder with a safetensors file for each feature set; a file appears only when it is complete."""

    folder: Path

    def read(self, key: str) -> FeatureSet | None:
        """The feature set stored under `key`; None where there is none, or its file is damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                meta = parse_json(file.metadata()[META])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return _set_of(tensors, meta)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write(self, key: str, images: FeatureSet) -> None:
        """Store a feature set under `key`; `UserError` where it cannot be written."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with published(path) as file:
            file.write(save(_tensors_of(images), metadata={META: json.dumps(_meta_of(images))}))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def cache_key(*parts: str) -> str:
    """The key of a feature set: sha256 over the `parts` that it depends on and the format version."""
    return hashlib.sha256(json.dumps([FORMAT_VERSION, *parts]).encode()).hexdigest()


def _tensors_of(images: FeatureSet) -> dict[str, Tensor]:
    tensors = {"features": images.features, "logits": images.logits}
    tensors |= {name: value for name in OPTIONAL if (value := getattr(images, name)) is not None}
    for name in MOMENTS:
        if (moments := getattr(images, name)) is not None:
            tensors |= {f"{name}.mean": moments.mean, f"{name}.cov": moments.cov}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _meta_of(images: FeatureSet) -> dict[str, object]:
    counts = {name: moments.count for name in MOMENTS if (moments := getattr(images, name)) is not None}
    return {
        "num_classes": images.num_classes,
        "sha256": images.sha256,
        "distance": images.distance,
        "counts": counts,
    }


def _set_of(tensors: dict[str, Tensor], meta: dict) -> FeatureSet:
    moments = {
        name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.cov"], count) for name, count in meta["counts"].items()
    }
    return FeatureSet(
        tensors["features"],
        tensors["logits"],
        tensors.get("labels"),
        meta["num_classes"],
        meta["sha256"],
        tensors.get("spatial"),
        tensors.get("colour"),
        moments.get("moments"),
        moments.get("spatial_moments"),
        meta["distance"],
    )

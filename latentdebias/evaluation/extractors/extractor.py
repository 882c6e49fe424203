"""Extractors, which turn uint8 images into the features and class logits that metrics are computed from."""

import hashlib
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from latentdebias.digits import classifier as digits
from latentdebias.errors import UserError
from latentdebias.evaluation.features import Features
from latentdebias.files import sha256_of
from latentdebias.precision import computing_in
from latentdebias.registry import Registry

# sha256 of the file that torch-fidelity publishes; the file's name has the first eight digits.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SPATIAL_CHANNELS = 7


class Extractor(nn.Module, ABC):
    """A frozen network that turns uint8 images (B, 3, H, W) into `Features`.

    For the protocol record, `identity` is the extractor's name and the sha256 of its weights, and `resize` says how
    images are resized for the network. `distance` is the name of the Frechet distance between its features.
    """

    resize = "none"
    distance = "fid"

    def __init__(self, network: nn.Module, num_features: int, identity: str) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.num_features = num_features
        self.identity = identity

    @property
    def device(self) -> torch.device:
        """Where the network is, and where features are computed."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """The `Features`, on the extractor's device and in fp32, of uint8 images (B, 3, H, W) on any device."""
        assert images.dtype == torch.uint8, f"expected uint8 images, not {images.dtype}"
        with computing_in("fp32"):
            return self.extract(images.to(self.device))

    @abstractmethod
    def extract(self, images: Tensor) -> Features:
        """The `Features` of uint8 images (B, 3, H, W), which are on the network's device already."""


class ExtractorSource(Protocol):
    """A frozen dataclass whose fields say where an extractor's weights are."""

    def load(self) -> Extractor:
        """The extractor on the CPU; `UserError` where its weights are missing or not the published ones."""


EXTRACTORS: Registry[ExtractorSource] = Registry("extractor")


@EXTRACTORS.register("inception")
@dataclass(frozen=True)
class Inception:
    """The Inception network of FID, as torch-fidelity ported it, from a local weights file.

    `weights` is the path of the file; None is the torch hub's cache. Nothing is downloaded.
    """

    weights: str | None = None

    def load(self) -> Extractor:
        """Inception on the CPU; `UserError` where the file is missing or its sha256 is not the published one."""
        path = Path(self.weights) if self.weights else cached_inception_weights()
        data = read_verified(path, INCEPTION_SHA256)
        # torch-fidelity unpickles without restrictions, so it is given the bytes that were verified, not the path.
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=io.BytesIO(data)
        )
        return _InceptionExtractor(network, 2048, f"inception-v3-compat sha256:{INCEPTION_SHA256}")


class _InceptionExtractor(Extractor):
    """Pooled features (B, 2048), logits without their bias (B, 1008) and spatial features (B, 2023).

    The spatial features are those of ADM's evaluator: the first 7 channels of TensorFlow's `mixed_6/conv`, which is
    branch1x1 of Mixed_6d in torch-fidelity's port, flattened in the order (17, 17, 7). torch-fidelity does not return
    this layer, so a forward hook reads it.
    """

    resize = "bilinear of TensorFlow 1 to 299"

    def extract(self, images: Tensor) -> Features:
        passed: list[Tensor] = []
        layer = self.network.get_submodule("Mixed_6d.branch1x1")
        hook = layer.register_forward_hook(lambda module, inputs, output: passed.append(output))
        try:
            features, logits = self.network(images)
        finally:
            hook.remove()
        spatial = passed[0][:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return Features(features, logits, spatial.float())


@EXTRACTORS.register("digits")
@dataclass(frozen=True)
class Digits:
    """The classifier of handwritten digits that ships with the package, for 32x32 images only."""

    def load(self) -> Extractor:
        network = digits.load_classifier()
        sha256 = sha256_of(digits.CLASSIFIER_FILE)
        return _DigitsExtractor(network, network.feature_dim, f"digits sha256:{sha256}")


class _DigitsExtractor(Extractor):
    """Penultimate activations (B, 64) and logits (B, 10) of images (B, 3, 32, 32)."""

    network: digits.DigitsClassifier

    def extract(self, images: Tensor) -> Features:
        if images.shape[1:] != (3, 32, 32):
            height, width = images.shape[2:]
            raise UserError(
                f"The digits extractor takes 32x32 images, and these are {height}x{width}: "
                f"score them with the extractor 'inception'."
            )
        features = self.network.features(images / 255)
        return Features(features, self.network.head(features))


@EXTRACTORS.register("pixels")
@dataclass(frozen=True)
class Pixels:
    """An extractor without a network or features, for metrics of pixels alone, such as the colour shift."""

    def load(self) -> Extractor:
        return _PixelsExtractor(nn.Module(), 0, "pixels")


class _PixelsExtractor(Extractor):
    """Empty features (B, 0) and empty logits (B, 0)."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def extract(self, images: Tensor) -> Features:
        nothing = torch.zeros(len(images), 0)
        return Features(nothing, nothing)


def cached_inception_weights() -> Path:
    """Path of the Inception weights in the torch hub's cache, which torch-fidelity and torchmetrics use too."""
    return hub_file(URL_INCEPTION_V3)


def hub_file(url: str) -> Path:
    """Path in the torch hub's cache of the file downloaded from `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of the Inception weights file `path`; `UserError` if it is missing or its sha256 is not `sha256`."""
    data = read_weights(path, "Inception", URL_INCEPTION_V3, "--inception-weights")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} is not the published Inception weights file: its sha256 is {found}, not {sha256}, so it "
            f"was not opened. Download {URL_INCEPTION_V3} again and pass it: --inception-weights PATH."
        )
    return data


def read_weights(path: Path, network: str, url: str, option: str) -> bytes:
    """The bytes of the weights file `path` of `network`.

    Raises `UserError` where there is no such file; the message has the `url` and the command-line `option`.
    """
    if not path.is_file():
        raise UserError(
            f"No {network} weights at {path}. Download {url} to that path, or pass the path "
            f"of your copy: {option} PATH."
        )
    return path.read_bytes()

"""DINOv2 as an extractor, for FD-DINOv2."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from latentdebias.errors import UserError
from latentdebias.evaluation.extractors.extractor import EXTRACTORS, Extractor, hub_file, read_weights
from latentdebias.evaluation.features import Features

URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{name}/dinov2_{name}_pretrain.pth"
TIMM_NAMES = {
    "vits14": "vit_small_patch14_dinov2",
    "vitb14": "vit_base_patch14_dinov2",
    "vitl14": "vit_large_patch14_dinov2",
}
IMAGE_SIZE = 224
PATCHES = 16
POSITION_OFFSET = 0.1


@EXTRACTORS.register("dinov2")
@dataclass(frozen=True)
class DINOv2:
    """DINOv2 without registers (Oquab et al. 2023) from Meta's published weights; FD-DINOv2 is defined on `vitl14`.

    `weights` is the path of the weights file; None is the torch hub's cache. Nothing is downloaded, and no code in the
    file is run. The network is timm's, because torch-fidelity's DINOv2 loads only through `torch.hub`, which runs
    downloaded code, and resizes bilinearly, whereas published FD-DINOv2 values use a bicubic, antialiased resize (Stein
    et al. 2023; Karras et al. 2024).
    """

    weights: str | None = None
    architecture: Literal["vits14", "vitb14", "vitl14"] = "vitl14"

    def load(self) -> Extractor:
        """The network on the CPU; `UserError` where the file of weights is missing or is not DINOv2's."""
        url = URL.format(name=self.architecture)
        path = Path(self.weights) if self.weights else hub_file(url)
        data = read_weights(path, f"DINOv2 {self.architecture}", url, "--dinov2-weights")
        network: Any = timm.create_model(TIMM_NAMES[self.architecture], img_size=IMAGE_SIZE, num_classes=0)
        try:
            network.load_state_dict(_for_timm(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)))
        # torch raises many kinds of exception for other files; with weights_only none of their code was run.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"{path} does not hold the weights of DINOv2 {self.architecture} ({reason}). "
                f"Download {url} and pass it: --dinov2-weights PATH."
            ) from None
        sha256 = hashlib.sha256(data).hexdigest()
        return _DINOv2Extractor(network, network.num_features, f"dinov2-{self.architecture} sha256:{sha256}")


def _for_timm(weights: dict[str, Any]) -> dict[str, Tensor]:
    """Meta's weights under timm's names, with the position embedding resized to 16 x 16 patches.

    The resize is that of Meta's forward pass: bicubic, not antialiased, for a scale factor of 16.1 over the old side.
    timm's own conversion antialiases.
    """
    weights = {name: weight for name, weight in weights.items() if name != "mask_token"}
    of_class, of_patches = weights["pos_embed"].float().split([1, weights["pos_embed"].shape[1] - 1], dim=1)
    side = round(of_patches.shape[1] ** 0.5)
    grid = of_patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if side != PATCHES:
        grid = F.interpolate(grid, scale_factor=(PATCHES + POSITION_OFFSET) / side, mode="bicubic", antialias=False)
    weights["pos_embed"] = torch.cat([of_class, grid.flatten(2).transpose(1, 2)], dim=1)
    return weights


class _DINOv2Extractor(Extractor):
    """Features are the class token (B, D) after the last norm; no logits."""

    resize = f"bicubic, antialiased, to {IMAGE_SIZE}"
    distance = "fd_dinov2"
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, num_features: int, identity: str) -> None:
        super().__init__(network, num_features, identity)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1))

    def extract(self, images: Tensor) -> Features:
        pixels = F.interpolate(images.float(), (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
        features = self.network((pixels / 255 - self.mean) / self.std)
        return Features(features, features.new_zeros(len(features), 0))

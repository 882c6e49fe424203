"""Embeddings of time and class, and the rearrangement of patch tokens into an image."""

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

TimeEmbedding = Literal["sinusoid", "table"]


def sinusoid(t: Tensor, width: int, freq_shift: int = 0) -> Tensor:
    """The sinusoidal embedding of times t: `(B,)` -> `(B, width)`, fp32.

    Cosines of w_i t, then sines of w_i t, at the frequencies w_i = 10000^(-i / (width / 2 - freq_shift)) with i from 0
    to width / 2 - 1. DiT, U-ViT and ADM have freq_shift 0; with 1, as in Ho et al. 2020, the lowest frequency is
    1/10000.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=t.device)
    # The order of operations is that of the published codes: rounded otherwise, an angle at t = 1000 is 1e-4 off.
    frequencies = torch.exp(-math.log(10_000) * steps / (width // 2 - freq_shift))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class SinusoidTime(nn.Module):
    """DiT's time embedding: an MLP over the sinusoidal embedding of t, which is 256 wide."""

    FEATURES = 256

    def __init__(self, width: int, freq_shift: int = 0) -> None:
        super().__init__()
        self.freq_shift = freq_shift
        first, second = nn.Linear(self.FEATURES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        nn.init.normal_(first.weight, std=0.02)
        nn.init.normal_(second.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """Times `(B,)` -> `(B, width)`."""
        return self.mlp(sinusoid(t, self.FEATURES, self.freq_shift).to(next(self.parameters()).dtype))


class TableTime(nn.Embedding):
    """A learned vector for each integer step, as in Min-SNR's ViT.

    The table has 4000 rows, of which a schedule of T steps uses the first T; a longer schedule does not fit.
    """

    ROWS = 4000

    def __init__(self, width: int) -> None:
        super().__init__(self.ROWS, width)

    def forward(self, t: Tensor) -> Tensor:
        """Times `(B,)`, rounded to integer steps -> `(B, width)`."""
        return super().forward(t.round().long())


TIME_EMBEDDINGS: dict[str, type[SinusoidTime | TableTime]] = {"sinusoid": SinusoidTime, "table": TableTime}


class LabelEmbedding(nn.Module):
    """A learned vector for each class; row `num_classes` is the null class of classifier-free guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor) -> Tensor:
        """Labels `(B,)` -> `(B, width)`."""
        return self.embedding_table(y)


def labels_or_null(y: Tensor | None, z: Tensor, num_classes: int) -> Tensor:
    """The labels y `(B,)` int64; where y is None, the null class `num_classes` for every latent of z `(B, C, H, W)`."""
    return torch.full((len(z),), num_classes, device=z.device) if y is None else y


def class_tokens(embedding: nn.Module | None, y: Tensor | None, z: Tensor, num_classes: int) -> list[Tensor]:
    """A list with the class token `(B, D)`, of the null class where y is None; an empty list without an embedding."""
    return [] if embedding is None else [embedding(labels_or_null(y, z, num_classes))]


def unpatchify(tokens: Tensor, patch_size: int, grid_size: int) -> Tensor:
    """Put patch tokens together to an image: `(B, N, p p C)` in raster order -> `(B, C, H, W)`."""
    p = patch_size
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid_size, p=p, q=p)

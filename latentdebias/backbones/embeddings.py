"""Embeddings of time and class, and the step from tokens back to an image."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn


class SinusoidTime(nn.Module):
    """An MLP over cosines and sines of t at 256 / 2 frequencies from 1 to 1/10000 (DiT, after Ho et al. 2020)."""

    FREQUENCIES = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Linear(2 * self.FREQUENCIES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        nn.init.normal_(first.weight, std=0.02)
        nn.init.normal_(second.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """`(B,)` -> `(B, width)`."""
        steps = torch.arange(self.FREQUENCIES, dtype=torch.float32, device=t.device) / self.FREQUENCIES
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class TableTime(nn.Module):
    """A learned vector for each whole step, as in Min-SNR's ViT: 4000 rows, of which a schedule uses the first T.

    A schedule of more than 4000 steps does not fit it.
    """

    ROWS = 4000

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(self.ROWS, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """`(B,)`, rounded to whole steps -> `(B, width)`."""
        return self.table(t.round().long())


class LabelEmbedding(nn.Module):
    """A learned vector a class; row `num_classes` is the null class of classifier-free guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        """Labels `(B,)`, or None for the null class throughout -> `(B, width)`."""
        if y is None:
            y = torch.full((batch,), self.num_classes, device=self.embedding_table.weight.device)
        return self.embedding_table(y)


def unpatchify(tokens: Tensor, patch_size: int, grid_size: int) -> Tensor:
    """Tokens `(B, N, p p C)` in raster order -> `(B, C, H, W)`."""
    p = patch_size
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid_size, p=p, q=p)

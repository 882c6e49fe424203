"""Estimates of x0 along sampling, and principal components of a block's tokens (Debias, figures 9, 12 and 13)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from tqdm import tqdm

from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.analysis.style import panels, show_tiles
from latentdebias.backbones.blocks import find_blocks
from latentdebias.drawing.image_sampler import labels_in_turn
from latentdebias.drawing.trajectory import Trajectory
from latentdebias.errors import UserError
from latentdebias.sampling import SAMPLERS, DrawOptions, Sampler
from latentdebias.sampling.ancestral import DDIM

COMPONENTS = 3


@dataclass
class TokenTrajectory:
    """An `Observe` that keeps, beside each estimate of `x0`, the output of a block in the same network call."""

    x0: Trajectory
    latest: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)

    def __call__(self, x0: Tensor, t: Tensor, step: int) -> None:
        kept = len(self.x0.x0)
        self.x0(x0, t, step)
        if len(self.x0.x0) > kept:
            # A guided call has the images under their class first.
            self.tokens.append(self.latest[-1][: self.x0.rows].float().cpu())
        self.latest.clear()

    @contextmanager
    def watching(self, block: nn.Module) -> Iterator[None]:
        """A context in which the outputs of `block` are seen."""
        # diffusers' UNet blocks give their output first, and then what later blocks take.
        handle = block.register_forward_hook(
            lambda module, given, output: self.latest.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            yield
        finally:
            handle.remove()


@FIGURES.register("trajectory")
@dataclass(frozen=True, kw_only=True)
class TrajectoryFigure(Figure):
    """The estimates of x0 that a sampler steps from, for `images` images from the same noise, at `columns` timesteps.

    Below each estimate are the first three principal components, as red, green and blue, of the tokens that block
    number `block` gives for all images shown; `block` of None is the one in the middle.
    """

    sampler: Annotated[Sampler, SAMPLERS.part] = field(default_factory=DDIM)
    steps: PositiveInt = 50
    columns: PositiveInt = 8
    images: PositiveInt = 2
    block: NonNegativeInt | None = None
    guidance: float | None = None

    def find(self, inputs: Inputs) -> Finding:
        options = inputs.draw_options(self.sampler, self.steps, self.guidance)
        seen = {each.label: self._of(each, options) for each in tqdm(inputs.models, desc="trajectory", unit="model")}
        distances, shares, tiles = [], [], []
        for label, trajectory in seen.items():
            x0 = torch.stack(trajectory.x0.x0).double().cpu()
            distance = ((x0 - x0[-1]) ** 2).flatten(2).mean(dim=2)
            for t, row, tokens in zip(trajectory.x0.t, distance.tolist(), trajectory.tokens, strict=True):
                distances += [(label, image, t, value) for image, value in enumerate(row)]
                _, share = principal_components(tokens_of(tokens))
                shares += [(label, t, component, value) for component, value in enumerate(share.tolist())]
            pixels = torch.stack([inputs.image_sampler.pixels(each).cpu() for each in trajectory.x0.x0], dim=1)
            tiles += [pixels, _maps(trajectory.tokens, pixels.shape[-1])]
        titles = [f"t = {t:.4g}" for t in next(iter(seen.values())).x0.t]
        names = [name for label in seen for name in (label, "tokens")]
        # Each image with the rows of every model.
        rows = torch.stack(tiles, dim=1).flatten(0, 1)
        width, height = 2.5 + 1.3 * len(titles), 0.6 + 1.3 * len(rows)
        picture, [axes] = panels(1, 1, width, height)
        show_tiles(axes, rows, names * (len(rows) // len(names)), titles)
        return Finding(
            picture,
            Table(("model", "image", "t", "distance"), distances),
            _line(distances),
            {"trajectory-components": Table(("model", "t", "component", "share"), shares)},
        )

    def _of(self, each: LabelledModel, options: DrawOptions) -> TokenTrajectory:
        seen = TokenTrajectory(Trajectory(self.steps, self.columns, self.images))
        config = each.model.config
        labels = labels_in_turn(list(range(config.num_classes or 1)), self.images)
        device = next(each.model.backbone.parameters()).device
        with seen.watching(self._block(each)):
            sampler = each.model.latent_model.sampler(options, seen)
            next(iter(sampler.draw(labels.to(device), options)))
        return seen

    def _block(self, each: LabelledModel) -> nn.Module:
        blocks = find_blocks(each.model.backbone)
        number = len(blocks) // 2 if self.block is None else self.block
        if number >= len(blocks):
            raise UserError(f"--block {number}: the model of {each.label} has {len(blocks)} blocks, counted from 0.")
        return blocks[number]


def tokens_of(output: Tensor) -> Tensor:
    """The patch tokens (B, g, g, D) of a block's output: (B, N, D) with other tokens in front, or (B, D, g, g)."""
    if output.ndim == 4:
        return output.permute(0, 2, 3, 1)
    side = math.isqrt(output.shape[1])
    return output[:, -(side**2) :].unflatten(1, (side, side))


def principal_components(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The first three principal components of tokens (..., D), and the share (3,) of the variance that each has.

    The components (..., 3) have the sign that makes the largest of their loadings positive.
    """
    rows = tokens.flatten(0, -2).double()
    centred = rows - rows.mean(dim=0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:COMPONENTS]
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    share = singular**2 / (singular**2).sum()
    return (centred @ axes.T).unflatten(0, tokens.shape[:-1]), share[:COMPONENTS]


def _maps(tokens: list[Tensor], side: int) -> Tensor:
    """The components by t as pictures (B, T, 3, side, side) uint8, each component stretched from 0 to 255."""
    maps = []
    for output in tokens:
        components, _ = principal_components(tokens_of(output))
        low, high = components.amin((0, 1, 2)), components.amax((0, 1, 2))
        colours = ((components - low) / (high - low).clamp(min=1e-12) * 255).round().permute(0, 3, 1, 2)
        maps.append(nn.functional.interpolate(colours, size=(side, side), mode="nearest").to(torch.uint8))
    return torch.stack(maps, dim=1)


def _line(distances: list[tuple[Any, ...]]) -> str:
    """The mean squared distance of the first estimate from the last, for each model."""
    first: dict[str, list[float]] = {}
    start = distances[0][2]
    for label, _, t, value in distances:
        if t == start:
            first.setdefault(label, []).append(value)
    parts = ", ".join(f"{label} {sum(values) / len(values):.3g}" for label, values in first.items())
    return f"mean squared distance from the first estimate of x0, at t = {start:.4g}, to the last: {parts}"

"""How training on some timesteps changes the loss at others (Min-SNR, figure 2)."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.bins import BinGradients, cosines, losses_by_bin
from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.analysis.style import panels
from latentdebias.diffusion.pareto.bins import Latents
from latentdebias.errors import UserError
from latentdebias.evaluation.protocol.intervals import QUANTILE
from latentdebias.models.model_directory import LoadedModel

MOST_EVALUATED = 256


@dataclass(frozen=True)
class Found:
    """For one model: changes (B, B) by trained and evaluated bin, and cosines (B, B), each with its interval's ends."""

    changes: tuple[Tensor, Tensor, Tensor]
    cosines: tuple[Tensor, Tensor, Tensor]


@FIGURES.register("conflict")
@dataclass(frozen=True, kw_only=True)
class Conflict(Figure):
    """The relative change of the x0 loss in each of `bins` bins of t after training on one of them.

    Each time the model starts from its average and trains for `iterations` updates of `batch` images with AdamW, on
    its own loss. Beside it are the cosines between the gradients of the bins' x0 losses over all images, with
    intervals from `blocks` blocks of images. The interval of a change is over images, not over other trainings.
    """

    bins: Annotated[int, Field(ge=2)] = 10
    iterations: PositiveInt = 50
    batch: PositiveInt = 64
    lr: PositiveFloat = 1e-4
    blocks: Annotated[int, Field(ge=2)] = 8

    def find(self, inputs: Inputs) -> Finding:
        if len(inputs.latents) < 2 * self.blocks:
            raise UserError(f"{len(inputs.latents)} latents are too few for {self.blocks} blocks of them; raise --num.")
        found = {each.label: self._of(each, inputs) for each in inputs.models}
        changes, change_ends = Table.with_intervals(
            ("trained_bin", "bin"), "change", {label: _rows(each.changes) for label, each in found.items()}
        )
        angles, angle_ends = Table.with_intervals(
            ("bin_a", "bin_b"), "cosine", {label: _rows(each.cosines) for label, each in found.items()}
        )
        others = {"conflict-intervals": change_ends, "cosines": angles, "cosines-intervals": angle_ends}
        return Finding(_picture(found), changes, _line(found), others)

    def _of(self, each: LabelledModel, inputs: Inputs) -> Found:
        latents = inputs.latents
        count = min(len(latents), MOST_EVALUATED)
        evaluated = latents.part(torch.arange(count) * len(latents) // count)
        before = losses_by_bin(each.model, evaluated, self.bins, inputs.batch_size)
        changes, margins = [], []
        for number in tqdm(range(self.bins), desc=f"fine-tune {each.label}", unit="bin"):
            tuned = self._tuned(each.model, latents, number, inputs.seed)
            after = losses_by_bin(tuned, evaluated, self.bins, inputs.batch_size)
            ratio = after.mean(dim=1) / before.mean(dim=1)
            residual = after - ratio[:, None] * before
            changes.append(ratio - 1)
            margins.append(QUANTILE * residual.std(dim=1) / count**0.5 / before.mean(dim=1))
        gradients = BinGradients.of(each.model, latents, self.bins, self.blocks, inputs.batch_size)
        value, margin = torch.stack(changes), torch.stack(margins)
        return Found((value, value - margin, value + margin), gradients.estimate(cosines))

    def _tuned(self, model: LoadedModel, latents: Latents, number: int, seed: int) -> LoadedModel:
        """The model after training on bin `number` alone, with batches that depend on the seed alone."""
        backbone, diffusion = copy.deepcopy(model.backbone), model.diffusion
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=self.lr, weight_decay=0.0)
        generator, device = torch.Generator().manual_seed(seed), latents.x0.device
        for _ in range(self.iterations):
            batch = latents.part(torch.randint(len(latents), (self.batch,), generator=generator).to(device))
            within = torch.rand(self.batch, generator=generator, dtype=torch.float64)
            t = diffusion.schedule.from_unit((number + within) / self.bins).to(device)
            eps = torch.randn(batch.x0.shape, generator=generator).to(device)
            optimizer.zero_grad()
            diffusion.loss(backbone, batch.x0, batch.labels, t=t, eps=eps).mean().backward()
            optimizer.step()
        return dataclasses.replace(model, backbone=backbone)


def _rows(estimate: tuple[Tensor, Tensor, Tensor]) -> list[tuple[object, ...]]:
    """Row, column, value and the ends of its interval, of each cell of a matrix (B, B)."""
    bins = range(len(estimate[0]))
    return [(a, b, *(part[a, b].item() for part in estimate)) for a in bins for b in bins]


def _picture(found: dict[str, Found]) -> Any:
    picture, axes = panels(len(found), 2, 8.5, 7.5)
    for row, (label, each) in enumerate(found.items()):
        changes, angles = 100 * each.changes[0], each.cosines[0]
        largest = max(changes.abs().flatten().kthvalue(int(0.9 * changes.numel())).values.item(), 1e-9)
        _heat(picture, axes[2 * row], changes, largest, "{:+.0f}")
        axes[2 * row].set(title=f"{label}: change of the loss, %", xlabel="bin of t", ylabel="trained on bin")
        _heat(picture, axes[2 * row + 1], 100 * angles, 100.0, "{:.0f}")
        axes[2 * row + 1].set(title=f"{label}: cosine of gradients x 100", xlabel="bin of t", ylabel="bin of t")
    return picture


def _heat(picture: Any, axes: Any, values: Tensor, largest: float, form: str) -> None:
    """A matrix as coloured cells with its numbers, red above 0 and blue below, saturated at `largest`."""
    axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
    for row, numbers in enumerate(values.tolist()):
        for column, value in enumerate(numbers):
            colour = "white" if abs(value) > 0.7 * largest else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=13)
    axes.set_xticks(range(len(values)))
    axes.set_yticks(range(len(values)))
    axes.grid(False)


def _line(found: dict[str, Found]) -> str:
    parts = []
    for label, each in found.items():
        change, least, _ = each.changes
        others = ~torch.eye(len(change), dtype=torch.bool)
        harmed = (least > 0) & others
        negative = (each.cosines[2] < 0) & others
        own = change.diagonal().mean().item()
        parts.append(
            f"{label}: trained on one bin its loss changes by {own:+.1%} on average, and rises (95%) in "
            f"{harmed.sum().item()} of {others.sum().item()} pairs of bins; "
            f"{negative.sum().item() // 2} of {others.sum().item() // 2} cosines are below 0"
        )
    return "; ".join(parts)

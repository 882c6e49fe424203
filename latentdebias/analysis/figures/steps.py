"""Pictures, FID and colour shift by the number of sampling steps (Debias, figures 1, 7 and 8)."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from tqdm import tqdm

from latentdebias.analysis.figure import FIGURES, Figure, Finding, Table
from latentdebias.analysis.inputs import Inputs
from latentdebias.analysis.style import mosaic, show_tiles
from latentdebias.autoencoders import load_autoencoder
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor, FeatureSet
from latentdebias.evaluation.extractors.extractor import ExtractorSource
from latentdebias.evaluation.metrics import FID, ColourShift
from latentdebias.evaluation.protocol.intervals import SMALLEST_SET
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity
from latentdebias.evaluation.protocol.scoring import ModelScoring, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import open_images
from latentdebias.evaluation.statistics_cache import default_folder
from latentdebias.registry import in_words
from latentdebias.sampling import SAMPLERS, Sampler

SHOWN = 2
COLOUR = "colour_shift"


@dataclass(frozen=True)
class Scored:
    """The images of one model, sampler and number of steps: the first few of them, and the record of all."""

    model: str
    sampler: str
    steps: int
    first: list[Tensor]
    record: ProtocolRecord

    def row(self, score: str) -> tuple[object, ...]:
        """Model, sampler, steps, the score, and the ends of its interval."""
        return (self.model, self.sampler, self.steps, self.record.scores[score], *self.record.intervals[score])


@FIGURES.register("steps")
@dataclass(frozen=True, kw_only=True)
class Steps(Figure):
    """FID and colour shift of `images` images, and pictures from the same noise, by number of `steps` and `sampler`.

    `reference` is what the scores are against, None for the latents that the first model's run was trained on;
    `guidance` of None is 1.5, and 1 for models without classes; `extractor` of None is inception, and digits for
    models of the demo.
    """

    sampler: tuple[Annotated[Sampler, SAMPLERS.part], ...] = (SAMPLERS.build("ddim"),)
    steps: tuple[PositiveInt, ...] = (2, 5, 10, 20, 50)
    images: Annotated[int, Field(ge=1)] = 500
    guidance: float | None = None
    reference: str | None = None
    extractor: Annotated[ExtractorSource | None, EXTRACTORS.part] = None

    def find(self, inputs: Inputs) -> Finding:
        if self.images < SMALLEST_SET:
            raise UserError(
                f"--images {self.images} is too few for a score with an interval: ask for at least {SMALLEST_SET}."
            )
        options = [
            inputs.draw_options(sampler, steps, self.guidance)
            for sampler in self.sampler
            for steps in sorted(set(self.steps))
        ]
        extractor, reference, path = self._reference(inputs)
        scoring = ModelScoring(Scoring([FID(), ColourShift()], extractor), reference, path, self.images)
        scored = []
        for each, how in tqdm([(each, how) for each in inputs.models for how in options], desc="steps", unit="set"):
            model, sampler = ModelIdentity.of_directory(each.directory), inputs.image_sampler_of(each)
            record, first = scoring.score(model, sampler, how, SHOWN)
            scored.append(Scored(each.label, in_words(how.sampler), how.steps, first, record))
        fid, columns = extractor.distance, ("model", "sampler", "steps")
        return Finding(
            _picture(scored, fid),
            Table((*columns, "fid", "low", "high"), [each.row(fid) for each in scored]),
            _line(scored, fid),
            {"steps-colour-shift": Table((*columns, COLOUR, "low", "high"), [each.row(COLOUR) for each in scored])},
        )

    def _reference(self, inputs: Inputs) -> tuple[Extractor, FeatureSet, str]:
        config = inputs.models[0].model.config
        source = self.extractor or EXTRACTORS.build("digits" if config.autoencoder.id == "digits" else "inception")
        extractor = source.load().to(inputs.device)
        path = self.reference or str(inputs.shards_directory)
        images = open_images(path, config.resolution, functools.partial(load_autoencoder, device=inputs.device))
        found = reference_features(images, extractor, default_folder())
        assert found is not None, "one process has rank 0"
        if found.colour is None or found.count < SMALLEST_SET:
            raise UserError(f"The reference {path} holds too few images for a score; name at least {SMALLEST_SET}.")
        return extractor, found, path


def _picture(scored: list[Scored], fid: str) -> Any:
    curves: dict[str, list[Scored]] = {}
    several = len({each.sampler for each in scored}) > 1
    for each in scored:
        curves.setdefault(f"{each.model}, {each.sampler}" if several else each.model, []).append(each)
    steps = sorted({each.steps for each in scored})
    height = 0.5 + 1.3 * SHOWN * len(curves)
    picture, axes = mosaic([["tiles", "tiles"], ["fid", "colour"]], max(13.0, 3 + 1.3 * len(steps)), [height, 5.0])
    tiles = [torch.stack([each.first[image] for each in curve]) for curve in curves.values() for image in range(SHOWN)]
    names = [label if image == 0 else "" for label in curves for image in range(SHOWN)]
    show_tiles(axes["tiles"], torch.stack(tiles), names, [str(each) for each in steps])
    for axis, score, title in (("fid", fid, "FID"), ("colour", COLOUR, "colour shift (levels of 255)")):
        for number, (label, curve) in enumerate(curves.items()):
            # Side by side, so that no bar hides another.
            at = [each.steps * 1.03**number for each in curve]
            values = [each.record.scores[score] for each in curve]
            ends = [each.record.intervals[score] for each in curve]
            margins = [value - low for value, (low, _) in zip(values, ends, strict=True)]
            axes[axis].errorbar(at, values, margins, label=label, marker="o", capsize=4)
        axes[axis].set(title=title, xlabel="sampling steps", xscale="log")
        axes[axis].set_xticks(steps, [str(each) for each in steps])
        axes[axis].minorticks_off()
    axes["fid"].set_yscale("log")
    axes["fid"].legend()
    return picture


def _line(scored: list[Scored], fid: str) -> str:
    parts = []
    for label, sampler in dict.fromkeys((each.model, each.sampler) for each in scored):
        curve = [each for each in scored if (each.model, each.sampler) == (label, sampler)]
        ends = (f"{each.record.told(fid)} at {each.steps} steps" for each in (curve[0], curve[-1]))
        parts.append(f"{label} ({sampler}) {' to '.join(ends)}")
    return f"FID of {scored[0].record.num_samples} images with 95% intervals: {'; '.join(parts)}"

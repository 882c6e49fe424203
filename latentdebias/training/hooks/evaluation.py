"""Scores while training: images drawn with the EMA weights, against a reference, with the protocol written down."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from latentdebias.autoencoders import Autoencoder
from latentdebias.drawing.sample_record import vae_of
from latentdebias.errors import UserError
from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor, FeatureSet
from latentdebias.evaluation.extractors.extractor import ExtractorSource
from latentdebias.evaluation.metrics import METRICS, Metric
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.protocol.scoring import Origin, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import FoundImages, open_images
from latentdebias.evaluation.sources.generated import GeneratedImages
from latentdebias.evaluation.statistics_cache import VARIABLE, default_folder
from latentdebias.files import check_output_folder
from latentdebias.registry import option
from latentdebias.sampling import DrawOptions, Guidance
from latentdebias.training.hooks.hook import HookContext
from latentdebias.training.hooks.with_average import load_everywhere


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(DrawOptions):
    """The `evaluation` section of a run config: how a run is scored as it goes on; `every` 0 does not score it."""

    every: NonNegativeInt = option(0, "steps; 0: never")
    num: PositiveInt = option(1000, "images to draw, evenly over the classes; scores of other numbers do not compare")
    reference: str | None = option(None, "images, an .npz or latent shards, all of them")
    metrics: tuple[Annotated[Metric, METRICS.part], ...] = option((METRICS.build("fid"),), "")
    extractor: Annotated[ExtractorSource, EXTRACTORS.part] = option(
        EXTRACTORS.build("inception"), "{name: inception, weights: PATH}"
    )
    resamples: NonNegativeInt = option(0, "half samples that make the 95% intervals; 0: none")
    guidance: Guidance = option(Guidance(1.0), "")


@dataclass(frozen=True)
class OpenedEvaluation:
    """The reference and the extractor of a run's scores, opened once, on the device that draws."""

    reference: FoundImages
    extractor: Extractor


def open_evaluation(
    options: EvaluationOptions, resolution: int, load: Callable[[str], Autoencoder], device: torch.device
) -> OpenedEvaluation:
    """Open what the scores need; `load` gives the autoencoder of a reference of latent shards by its id.

    Raises `UserError` for whatever would end the first evaluation: no reference, one of fewer than two images, a cache
    that cannot be written, or weights of the extractor that are missing or not the published ones.
    """
    if options.reference is None:
        raise UserError(
            f"evaluation.every is {options.every}, and there is nothing to score against; name images, an .npz or "
            f"latent shards: --set evaluation.reference=PATH"
        )
    reference = open_images(options.reference, resolution, load)
    if reference.count < 2:
        raise UserError(f"evaluation.reference {options.reference} holds fewer than 2 images; name a set with more.")
    try:
        check_output_folder(default_folder())
    except UserError as error:
        raise UserError(
            f"The features of evaluation.reference are kept for later runs. {error} That is: export {VARIABLE}=FOLDER"
        ) from None
    return OpenedEvaluation(reference, options.extractor.load().to(device))


class InLoopEvaluation:
    """Scores `num` images, evenly over the classes; writes `evaluation/step-N.json` and a line of the log.

    The ranks share the drawing and the features; the reference's features come from the cache of `evaluate`.
    """

    def __init__(self, options: EvaluationOptions, opened: OpenedEvaluation, run: HookContext) -> None:
        self.options, self.run, self.sampler = options, run, run.open_image_sampler()
        self.reference, self.scoring = opened.reference, Scoring(options.metrics, opened.extractor, options.resamples)

    def __call__(self, step: int, weights: dict[str, Tensor]) -> None:
        """Draw with the whole state dict `weights` of rank 0, and score; every rank must call it."""
        load_everywhere(self.sampler, weights)
        drawn = GeneratedImages.evenly(self.sampler, self.options.num, self.options)
        reference = self._reference_features
        samples = extract_over_ranks(drawn, self.scoring.extractor, "samples")
        # On every rank but 0 there is nothing left to do.
        if samples is not None and reference is not None:
            self._write(step, samples, reference)

    def _write(self, step: int, samples: FeatureSet, reference: FeatureSet) -> None:
        run_dir = self.run.run_dir
        vae = vae_of(self.sampler.autoencoder.identity)
        model = ModelIdentity(model=str(run_dir), vae=vae, ema=self.run.average)
        sampling = SamplingProtocol.of(model, self.options, labels="even")
        origin = Origin(f"{run_dir} at step {step}", str(self.options.reference), sampling)
        record = self.scoring.score(samples, reference, origin)
        folder = run_dir / "evaluation"
        folder.mkdir(exist_ok=True)
        record.write(folder / f"step-{step:08d}.json")
        if self.run.log is not None:
            self.run.log.write(step, record.scores)

    @functools.cached_property
    def _reference_features(self) -> FeatureSet | None:
        return reference_features(self.reference, self.scoring.extractor, default_folder())

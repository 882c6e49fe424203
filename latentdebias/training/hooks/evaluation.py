"""Scores while training: images drawn with the EMA weights, against a reference, with the protocol written down."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from latentdebias.autoencoders import load_autoencoder
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import DrawOptions, check_draw, labels_in_turn
from latentdebias.errors import UserError
from latentdebias.evaluation.evaluator import extract
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor, FeatureSet
from latentdebias.evaluation.metrics import METRICS, Metric
from latentdebias.evaluation.protocol.record import SamplingProtocol, vae_of
from latentdebias.evaluation.protocol.scoring import score
from latentdebias.evaluation.sources.drawn import DrawnImages
from latentdebias.evaluation.sources.find import open_images
from latentdebias.evaluation.sources.source import ImageSource
from latentdebias.registry import Spec
from latentdebias.sampling import SAMPLERS
from latentdebias.training.hooks.hook import HookContext


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(DrawOptions):
    """The `evaluation` section of a run config: how a run is scored as it goes on; `every` 0 does not score it."""

    every: NonNegativeInt = 0
    num: PositiveInt = 1000
    reference: str | None = None
    metrics: list[Spec] = field(default_factory=lambda: ["fid"])
    extractor: Spec = "inception"
    guidance: float = 1.0

    def open_metrics(self) -> list[Metric]:
        return [METRICS.build(metric) for metric in self.metrics]

    def open_extractor(self) -> Extractor:
        """On the CPU; `UserError` where its weights are missing or not the published ones."""
        return EXTRACTORS.build(self.extractor).load()

    def open_reference(self, resolution: int, device: torch.device) -> ImageSource:
        """The images to score against; latent shards are decoded on `device`. `UserError` where none are named."""
        if self.reference is None:
            raise UserError(
                f"evaluation.every is {self.every}, and there is nothing to score against; name images, an .npz or "
                f"latent shards: --set evaluation.reference=PATH"
            )
        return open_images(self.reference, resolution, functools.partial(load_autoencoder, device=device))


def check_evaluation(
    options: EvaluationOptions, diffusion: Diffusion, num_classes: int, channels: int, resolution: int
) -> None:
    """Raise `UserError` for whatever would end the first evaluation, before the training starts."""
    SAMPLERS.build(options.sampler)
    check_draw(options, diffusion, num_classes, channels)
    options.open_metrics()
    if options.open_reference(resolution, torch.device("cpu")).count < 2:
        raise UserError(f"evaluation.reference {options.reference} holds fewer than 2 images; name a set with more.")
    options.open_extractor()


class InLoopEvaluation:
    """Scores `num` images on rank 0, evenly over the classes; writes `evaluation/step-N.json` and a line of the log."""

    def __init__(self, options: EvaluationOptions, run: HookContext) -> None:
        self.options, self.run, self.sampler = options, run, run.open_image_sampler()
        device = self.sampler.autoencoder.device
        self.reference = options.open_reference(run.manifest.resolution, device)
        self.extractor = options.open_extractor().to(device)
        self.metrics: Sequence[Metric] = options.open_metrics()

    def __call__(self, step: int, weights: dict[str, Tensor]) -> None:
        """Draw with the whole state dict `weights`, and score."""
        self.sampler.backbone.load_state_dict(weights)
        run_dir, classes = self.run.run_dir, list(range(self.sampler.num_classes or 1))
        drawn = DrawnImages(self.sampler, labels_in_turn(classes, self.options.num), self.options)
        samples = extract(drawn, self.extractor, drawn.count, "samples", drawn.num_classes)
        decoder = self.sampler.autoencoder.identity
        record = score(
            samples,
            self._reference_features,
            self.metrics,
            self.extractor,
            samples_path=f"{run_dir} at step {step}",
            reference_path=str(self.options.reference),
            sampling=SamplingProtocol.of(run_dir, self.options, vae_of(decoder), self.run.average),
            resamples=0,
        )
        folder = run_dir / "evaluation"
        folder.mkdir(exist_ok=True)
        record.write(folder / f"step-{step:08d}.json")
        if self.run.log is not None:
            self.run.log.write(step, record.scores)

    @functools.cached_property
    def _reference_features(self) -> FeatureSet:
        reference = self.reference
        return extract(reference, self.extractor, reference.count, "reference", reference.num_classes)

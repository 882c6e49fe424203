"""The options of a study file: what varies, how each cell is scored, and how one option is tuned alike for all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from latentdebias.errors import UserError, legal_choices
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.extractors.extractor import ExtractorSource
from latentdebias.evaluation.metrics import METRICS, Metric
from latentdebias.evaluation.metrics.metric import Better
from latentdebias.evaluation.protocol.intervals import RESAMPLES, better_of
from latentdebias.precision import Precision
from latentdebias.registry import option
from latentdebias.sampling import SAMPLERS, DrawOptions, Guidance, Sampler
from latentdebias.sampling.ancestral import DDIM

Seed = Annotated[int, Field(ge=0, lt=2**63)]
SomeSteps = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The `evaluate` section of a study: at which iterations, and from which images, every cell is scored."""

    at: SomeSteps = option(..., "iterations that are scored; every cell trains up to the last")
    samplers: Annotated[tuple[Annotated[Sampler, SAMPLERS.part], ...], Field(min_length=1)] = option((DDIM(),), "")
    steps: SomeSteps = option((50,), "numbers of sampler steps to draw with at the last iteration")
    early_steps: SomeSteps | None = option(None, "those of the earlier iterations; null: the same")
    num: Annotated[int, Field(ge=20)] = option(1000, "images to draw, evenly over the classes")
    reference: str = option(..., "images, an .npz or latent shards, all of them")
    extractor: Annotated[ExtractorSource, EXTRACTORS.part] = option(EXTRACTORS.build("inception"), "")
    metrics: Annotated[tuple[Annotated[Metric, METRICS.part], ...], Field(min_length=1)] = option(
        (METRICS.build("fid"),), ""
    )
    resamples: NonNegativeInt = option(RESAMPLES, "half samples that make the 95% intervals; 0: none")
    guidance: Guidance = option(Guidance(1.0), "a number is the scale")
    precision: Precision = option("fp32", "fp32 (in full) | tf32 (fp32 on a CPU) | bf16 (autocast)")
    seed: NonNegativeInt = option(0, "of the noise, which is the same for all cells")
    batch_size: PositiveInt = option(64, "images drawn together")

    def draws(self, sampler_steps: tuple[int, ...]) -> Iterator[DrawOptions]:
        """How images are drawn with each sampler, in each of the given numbers of steps."""
        for sampler in self.samplers:
            for steps in sampler_steps:
                yield DrawOptions(
                    sampler=sampler,
                    steps=steps,
                    guidance=self.guidance,
                    precision=self.precision,
                    seed=self.seed,
                    batch_size=self.batch_size,
                )

    @property
    def better(self) -> dict[str, Better]:
        """The better direction of each score, by name, in the order of the metrics."""
        return better_of(self.metrics)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The `tune` section of a study: for each setting the option `key` gets the best of `values` after a short run."""

    # The section may be left out, so `validate` does not reach into it to refuse unknown keys.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: str = option(..., "such as optimizer.lr")
    values: Annotated[tuple[Any, ...], Field(min_length=2)] = option(..., "the same for every setting")
    iterations: PositiveInt = option(..., "of each short run")
    seed: Seed = option(..., "of the short runs; none of the study's own seeds, which are to be fresh")
    by: str | None = option(None, "the score that decides; null: the first")
    steps: PositiveInt | None = option(None, "sampler steps of that score; null: the most that the study scores")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """A study file: settings (named variants, times a grid) under a base config, each trained from every seed."""

    base: str = option(..., "the config of all cells, by path or by name")
    out: str | None = option(None, "the folder of the study; null: runs/studies/NAME_OF_THE_FILE")
    set: dict[str, Any] = option(dict, "keys of the config with their values in all cells: {training.batch_size: 32}")
    variants: dict[str, dict[str, Any]] = option(dict, "named settings, each of several keys of the config")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = option(dict, "keys of the config with lists of values")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = option((0,), "a run of each setting from each")
    baseline: str | None = option(None, "the setting that others are compared with; null: the first")
    published: dict[str, str] = option(dict, "what a paper prints for a setting, shown beside the study's own scores")
    evaluate: ScoreOptions = option(..., "")
    tune: TuneOptions | None = option(None, "")

    def check(self) -> None:
        """Raise `UserError` for options that cannot go together, whatever the base config is."""
        if not self.variants and not self.grid:
            raise UserError(
                "The grid is empty: there is nothing to compare. Name settings under variants:, or keys of the config "
                "with lists of values under grid:, such as grid: {diffusion.weighting: [constant, debias]}."
            )
        if list(self.evaluate.at) != sorted(set(self.evaluate.at)):
            raise UserError(f"evaluate.at is {list(self.evaluate.at)}; list each iteration once, in rising order.")
        for name, values in [("seeds", self.seeds), ("evaluate.steps", self.evaluate.steps)]:
            if len(set(values)) < len(values):
                raise UserError(f"{name} is {list(values)}; list each number once.")
        if self.tune is not None:
            if self.tune.seed in self.seeds:
                raise UserError(
                    f"tune.seed {self.tune.seed} is one of the study's seeds, so the choice would favour its run; "
                    f"choose another, such as {max(self.seeds) + 1}."
                )
            if self.tune.by is not None and self.tune.by not in self.evaluate.better:
                raise UserError(f"tune.by is {self.tune.by!r}. {legal_choices(self.tune.by, self.evaluate.better)}")

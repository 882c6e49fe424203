"""The run config: a field for every section, and the options that belong to no other package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from latentdebias.backbones import BACKBONES, BackboneSpec
from latentdebias.batches.options import DataOptions
from latentdebias.diffusion import (
    ERRORS,
    SCHEDULES,
    TARGETS,
    TERMS,
    TIMESTEP_SAMPLERS,
    VARIANCES,
    WEIGHTINGS,
    Diffusion,
    ErrorFunction,
    Schedule,
    Target,
    Term,
    TimestepSampler,
    Variance,
    Weighting,
)
from latentdebias.files import publish
from latentdebias.registry import option, plain
from latentdebias.training.ema import EMAOptions
from latentdebias.training.hooks import HOOKS, HookSpec
from latentdebias.training.hooks.evaluation import EvaluationOptions
from latentdebias.training.hooks.sample_grid import SamplingOptions
from latentdebias.training.lr_schedules import LR_SCHEDULES, LRSchedule
from latentdebias.training.optimizers import OPTIMIZERS, OptimizerSpec
from latentdebias.training.trainer import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """The `diffusion` section: the parts of a `Diffusion`, each built from a name, or from a name with fields."""

    schedule: Annotated[Schedule, SCHEDULES.part] = option(
        SCHEDULES.build("linear"), "noise against time;  {name: linear, zero_terminal_snr: true}"
    )
    target: Annotated[Target, TARGETS.part] = option(
        TARGETS.build("eps"), "what the network predicts;  {name: edm, sigma_data: 0.5}"
    )
    variance: Annotated[Variance, VARIANCES.part] = option(
        VARIANCES.build("fixed"), "learned_range doubles the output channels and adds the variational bound"
    )
    weighting: Annotated[Weighting, WEIGHTINGS.part] = option(
        WEIGHTINGS.build("debias"),
        "of the loss by noise level, each with space, max_weight, normalize;  {name: debias, normalize: mean}",
    )
    timesteps: Annotated[TimestepSampler, TIMESTEP_SAMPLERS.part] = option(
        TIMESTEP_SAMPLERS.build("uniform"), "how training draws them"
    )

    error: Annotated[ErrorFunction, ERRORS.part] = option(
        ERRORS.build("squared"), "of prediction and target;  {name: huber, c: 0.1, schedule: exponential}"
    )
    terms: tuple[Annotated[Term, TERMS.part], ...] = option(
        (), "added to the loss, without a weight;  [{name: cosine, scale: 1.0}]"
    )

    def build(self, latent_shape: tuple[int, int, int] | None = None) -> Diffusion:
        """The `Diffusion` made of these parts, for latents of `latent_shape` (C, h, w).

        Raises `UserError` where two of them cannot go together, or one depends on a shape that is not given.
        """
        schedule = self.schedule.for_latents(latent_shape)
        parts = (self.target, self.weighting, self.timesteps, self.variance, self.error, self.terms)
        return Diffusion(schedule, *parts)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run; `configs/base.yaml` spells out each key."""

    run_dir: str = option(
        "runs/base",
        "config.yaml, log.jsonl, tensorboard/, checkpoints/, samples/, model/; a rerun resumes",
        on_resume="free",
    )
    imports: tuple[str, ...] = option((), "Python modules that register parts of your own", on_resume="free")
    init_from: str | None = option(
        None,
        "a model directory whose weights training starts from, such as an imported checkpoint",
        on_resume="free",
    )
    data: DataOptions = option(DataOptions, "")
    model: Annotated[BackboneSpec, BACKBONES.part] = option(
        BACKBONES.build("dit_b_patch2"),
        "dit_{s,b,l,xl}_patch{2,4,8} | min_snr_vit_{s,b,l,xl}_patch{2,4,8} | uvit_{s,m,l,h}_patch{2,4} | "
        "unet_{adm_small,adm_64,adm_256,min_snr} | ldm_unet; of any size: dit | min_snr_vit | uvit | unet; any of "
        "timm's: {name: vit, timm_name: NAME_IN_TIMM}",
    )
    diffusion: DiffusionOptions = option(DiffusionOptions, "")
    optimizer: Annotated[OptimizerSpec, OPTIMIZERS.part] = option(
        OPTIMIZERS.build("adamw"), "timm is any of timm's;  {name: timm, opt: muon, lr: 1.0e-3}, with ZeRO stage 0"
    )
    lr_schedule: Annotated[LRSchedule, LR_SCHEDULES.part] = option(
        LR_SCHEDULES.build("constant"), "{name: cosine, warmup_steps: 5000, final: 0.1}"
    )
    training: TrainingOptions = option(TrainingOptions, "")
    ema: EMAOptions = option(
        EMAOptions, "averages of the weights; the first is drawn and exported unless another is named"
    )
    sampling: SamplingOptions = option(SamplingOptions, "of the grids", on_resume="free")
    evaluation: EvaluationOptions = option(
        EvaluationOptions,
        "scores of images drawn with the EMA weights while training, in evaluation/ and the log",
        on_resume="free",
    )
    hooks: tuple[Annotated[HookSpec, HOOKS.part], ...] = option(
        (), "hooks of your own, named by modules in imports, that run after every update", on_resume="free"
    )
    deepspeed: dict[str, Any] = option(
        lambda: {"zero_optimization": {"stage": 1}}, "raw DeepSpeed options, checked as well", on_resume="free"
    )

    def plain(self) -> dict[str, Any]:
        """The config as YAML holds it."""
        values: dict[str, Any] = plain(self)
        return values

    @property
    def model_name(self) -> str:
        """The name of the model: that of the preset which equals it, or else of its family."""
        return BACKBONES.preset_of(self.model)


def write_config(config: RunConfig, path: Path) -> None:
    """Write the whole config, defaults included; reading it back gives the same run."""
    publish(path, yaml.safe_dump(config.plain(), sort_keys=False).encode())

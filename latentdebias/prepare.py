"""From a run config to objects, and all that can be checked of it before a process group starts."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from latentdebias import distributed
from latentdebias.autoencoders import Autoencoder, AutoencoderIdentity, load_this_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.backbones.embeddings import TableTime
from latentdebias.batches.loader import check_flip
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.order import ORDERS
from latentdebias.batches.plan import BatchPlan, plan_batches
from latentdebias.batches.reader import READERS, TrainingSet, open_training_set
from latentdebias.config import RunConfig
from latentdebias.diffusion import VARIANCES, Diffusion
from latentdebias.errors import UserError
from latentdebias.models.init_from import check_initial_weights, differences, load_initial_weights
from latentdebias.registry import load_plugins
from latentdebias.sampling import ModelFacts, check_draw
from latentdebias.training.deepspeed_options import zero_stage
from latentdebias.training.engine import check_deepspeed_options
from latentdebias.training.hooks import HOOKS
from latentdebias.training.hooks.evaluation import check_evaluation
from latentdebias.training.lr_schedules import LR_SCHEDULES
from latentdebias.training.monitor.log_writers import check_wandb
from latentdebias.training.optimizers import OPTIMIZERS, check_optimizer


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What the data decides about a model."""

    latent_shape: tuple[int, int, int]
    num_classes: int


def build_diffusion(config: RunConfig) -> Diffusion:
    """The diffusion process of a run."""
    return Diffusion(**dataclasses.asdict(config.diffusion))


def build_backbone(config: RunConfig, shapes: Shapes) -> nn.Module:
    """The network of a run, with freshly initialised weights."""
    channels, side, _ = shapes.latent_shape
    return BACKBONES.build(config.model).build(side, channels, shapes.num_classes, _out_chans(config, channels))


def meta_backbone(config: RunConfig, shapes: Shapes) -> nn.Module:
    """The same network on the meta device, without a download: its shapes alone."""
    channels, side, _ = shapes.latent_shape
    with torch.device("meta"):
        spec = BACKBONES.build(config.model).without_pretrained()
        return spec.build(side, channels, shapes.num_classes, _out_chans(config, channels))


def initial_backbone(config: RunConfig, shapes: Shapes) -> nn.Module:
    """The network that a run starts to train: freshly initialised, or with the weights of `init_from`."""
    backbone = build_backbone(config, shapes)
    if config.init_from is not None:
        load_initial_weights(backbone, config.init_from)
    return backbone


def _out_chans(config: RunConfig, channels: int) -> int:
    return VARIANCES.build(config.diffusion.variance).outputs * channels


def describe_model(config: RunConfig, shapes: Shapes) -> str:
    """One line on the model, which is built on the meta device for it; `UserError` where it cannot be built."""
    backbone = meta_backbone(config, shapes)
    if config.init_from is not None:
        check_initial_weights(backbone, config.init_from)
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    return (
        f"model {config.model['name']}: {millions:.1f}M parameters on latents {tuple(shapes.latent_shape)}, "
        f"{shapes.num_classes} classes"
    )


def check_times(config: RunConfig, diffusion: Diffusion) -> None:
    """Raise `UserError` where the network looks times up in a table, and the schedule has times that it lacks."""
    times = diffusion.model_time(diffusion.schedule.grid())
    tabulated = getattr(BACKBONES.build(config.model), "time_embedding", None) == "table"
    if tabulated and (times.min() < 0 or times.max() >= TableTime.ROWS):
        raise UserError(
            f"Model {config.model['name']!r} has a table of {TableTime.ROWS} times, and this schedule tells it times "
            f"from {times.min():.2f} to {times.max():.2f}; set model.time_embedding=sinusoid, or another schedule."
        )


def stated_shapes(config: RunConfig) -> Shapes | None:
    """The shapes that the config states itself; None where it leaves one to the shards."""
    data = config.data
    if data.latent_shape is None or data.num_classes is None:
        return None
    return Shapes(data.latent_shape, data.num_classes)


def open_shards(config: RunConfig) -> TrainingSet:
    """The shards of a run; `UserError` where they are missing, damaged, or not what the config says."""
    data = config.data
    shards = open_training_set(data)
    manifest = shards.manifest
    stated = {
        "data.vae": (data.vae, manifest.autoencoder["id"]),
        "data.resolution": (data.resolution, manifest.resolution),
        "data.latent_shape": (data.latent_shape and tuple(data.latent_shape), tuple(manifest.latent_shape)),
        "data.num_classes": (data.num_classes, manifest.num_classes),
    }
    for key, (wanted, found) in stated.items():
        if wanted is not None and wanted != found:
            raise UserError(
                f"{key} is {wanted!r} in the config, and the shards in {data.shards} were made with {found!r}. Point "
                f"data.shards at the right set, or --set {key}={found}"
            )
    return shards


def prepare(config: RunConfig) -> TrainingSet:
    """Check all that can be checked before a process group starts, and open the run's shards."""
    load_plugins(config.imports)
    check_deepspeed_options(config.deepspeed, config.training.compile)
    check_optimizer(OPTIMIZERS.build(config.optimizer), zero_stage(config.deepspeed))
    LR_SCHEDULES.build(config.lr_schedule)
    diffusion, shapes = build_diffusion(config), stated_shapes(config)
    check_times(config, diffusion)
    ORDERS.build(config.data.order)
    for hook in config.hooks:
        HOOKS.build(hook)
    READERS.build(config.data.reader)
    if shapes is not None:
        say(describe_model(config, shapes))
    shards = open_shards(config)
    if shapes is None:
        say(describe_model(config, Shapes(shards.latent_shape, shards.num_classes)))
    if config.init_from is not None:
        normalization = LatentNormalization.of_manifest(shards.manifest, config.data.normalization)
        for line in differences(config.init_from, diffusion, normalization):
            say(line)
    num_classes, channels = shards.num_classes, shards.latent_shape[0]
    facts = ModelFacts(diffusion, channels, num_classes)
    check_draw(config.sampling.for_classes(num_classes), facts)
    check_flip(config.data, shards)
    batch_plan(config)
    if config.training.sample_every:
        load_autoencoder_of(shards, torch.device("cpu"))
    if config.training.wandb_project:
        check_wandb()
    if config.evaluation.every:
        check_evaluation(config.evaluation, facts, shards.manifest.resolution)
    try:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir {config.run_dir!r} cannot be made ({error.strerror}); set another one.") from None
    return shards


def say(line: str) -> None:
    """Print on rank 0."""
    if distributed.rank() == 0:
        print(line, flush=True)


def batch_plan(config: RunConfig) -> BatchPlan:
    """How this rank's share of the batches is dealt; `UserError` where they cannot be dealt evenly."""
    training = config.training
    return plan_batches(
        training.seed,
        training.batch_size,
        training.micro_batch_size,
        distributed.rank(),
        distributed.world_size(),
    )


def load_autoencoder_of(shards: TrainingSet, device: torch.device) -> Autoencoder:
    """The autoencoder that made the shards."""
    made_with = AutoencoderIdentity(**shards.manifest.autoencoder)
    return load_this_autoencoder(made_with, made_with.id, device)

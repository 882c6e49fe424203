"""The checks of a run that need no process group; what they open (shards, autoencoder, ...) is kept for the run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latentdebias import distributed
from latentdebias.autoencoders import Autoencoder, load_autoencoder, load_this_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.backbones.embeddings import TableTime
from latentdebias.backbones.sized import SizedBackbone
from latentdebias.batches.loader import check_flip
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.plan import BatchPlan, plan_batches
from latentdebias.batches.reader import TrainingSet
from latentdebias.config import RunConfig
from latentdebias.devices import compute_deterministically
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.terms import check_pairs
from latentdebias.diffusion.weightings.learned import Edm2Uncertainty
from latentdebias.errors import UserError
from latentdebias.models.init_from import check_initial_weights, differences
from latentdebias.models.model_directory import ModelConfig
from latentdebias.objective import Objective
from latentdebias.sampling import ModelFacts, check_draw
from latentdebias.training.deepspeed_options import zero_stage
from latentdebias.training.engine import check_deepspeed_options, training_device
from latentdebias.training.hooks.evaluation import OpenedEvaluation, open_evaluation
from latentdebias.training.monitor.log_writers import check_wandb
from latentdebias.training.optimizers import check_learned_weight, check_optimizer


@dataclass(frozen=True)
class Prepared:
    """A run whose config was checked, with everything that the checks opened.

    `autoencoder` is None where the run draws nothing, `evaluation` where it scores nothing; both are on `device`.
    """

    config: RunConfig
    shards: TrainingSet
    network: SizedBackbone
    diffusion: Diffusion
    normalization: LatentNormalization
    batch_plan: BatchPlan
    device: torch.device
    autoencoder: Autoencoder | None
    evaluation: OpenedEvaluation | None

    def model_config(self, step: int, average: str) -> ModelConfig:
        """What a model directory says of this run's network with the weights of `average` after `step` updates."""
        manifest = self.shards.manifest
        return ModelConfig(
            imports=list(self.config.imports),
            model=BACKBONES.spec_of(self.network.untrained().spec),
            diffusion=self.diffusion.spec(),
            latent_shape=self.network.latent_shape,
            num_classes=self.network.num_classes,
            class_names=manifest.class_names,
            normalization=self.normalization,
            resolution=manifest.resolution,
            autoencoder=manifest.identity,
            step=step,
            ema=average,
        )

    def data_identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with besides the options: the data's sha256, and what decides its order."""
        digests = "".join(shard.sha256 for shard in self.shards.manifest.shards)
        sha256 = hashlib.sha256(digests.encode()).hexdigest()
        return {"data (sha256)": sha256, **self.shards.resume_settings(self.batch_plan.world_size)}


def prepare(config: RunConfig) -> Prepared:
    """Open a run's data, check its config against the data, print the model's size and make `run_dir`.

    Raises `UserError` for whatever would end the run later.
    """
    training = config.training
    if training.deterministic:
        compute_deterministically()
    check_deepspeed_options(config.deepspeed, training.compile)
    batch_plan = plan_batches(
        training.seed,
        training.batch_size,
        training.micro_batch_size,
        distributed.rank(),
        distributed.world_size(),
    )
    objective = checked_objective(config, batch_plan.micro_batch_size)
    diffusion = objective.diffusion
    for line in (objective.summary(), *(f"note: {note}" for note in objective.notes())):
        say(line)
    network = stated_network(config)
    if network is not None:
        say(describe_model(config, network))
    shards = open_shards(config)
    if network is None:
        network = network_of(config, shards.latent_shape, shards.num_classes)
        say(describe_model(config, network))
    normalization = LatentNormalization.of_manifest(shards.manifest, config.data.normalization)
    if config.init_from is not None:
        for line in differences(config.init_from, diffusion, normalization):
            say(line)
    facts = ModelFacts(diffusion, shards.latent_shape[0], shards.num_classes)
    check_draw(config.sampling.for_classes(facts.num_classes), facts)
    if config.evaluation.every:
        check_draw(config.evaluation, facts)
    check_flip(config.data, shards)
    if training.wandb_project:
        check_wandb()
    device = training_device()
    autoencoder = load_autoencoder_of(shards, device) if training.sample_every or config.evaluation.every else None
    evaluation = None
    if autoencoder is not None and config.evaluation.every:
        resolution = shards.manifest.resolution
        evaluation = open_evaluation(config.evaluation, resolution, _loader(autoencoder, device), device)
    try:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir {config.run_dir!r} cannot be made ({error.strerror}); set another one.") from None
    return Prepared(config, shards, network, diffusion, normalization, batch_plan, device, autoencoder, evaluation)


def checked_objective(config: RunConfig, micro_batch_size: int) -> Objective:
    """What a run with a rank's backwards of `micro_batch_size` rows optimises.

    Raises `UserError` where its parts, the optimizer and the micro-batch do not go together.
    """
    check_optimizer(config.optimizer, zero_stage(config.deepspeed))
    objective = Objective(config.diffusion.build(config.data.latent_shape))
    check_times(config, objective.diffusion)
    objective.check()
    check_pairs(objective.diffusion.terms, micro_batch_size)
    if isinstance(config.diffusion.weighting, Edm2Uncertainty):
        check_learned_weight(config.optimizer)
    return objective


def _loader(opened: Autoencoder, device: torch.device) -> Callable[[str], Autoencoder]:
    """A function that loads an autoencoder by id or folder; for the id of `opened` it returns `opened` itself."""

    def load(id_or_dir: str) -> Autoencoder:
        return opened if id_or_dir == opened.identity.id else load_autoencoder(id_or_dir, device)

    return load


def network_of(config: RunConfig, latent_shape: tuple[int, int, int], num_classes: int) -> SizedBackbone:
    """The network of a run on latents of shape (C, H, W), with the output channels that `diffusion.variance` needs."""
    return SizedBackbone(config.model, latent_shape, num_classes, config.diffusion.variance.outputs)


def stated_network(config: RunConfig) -> SizedBackbone | None:
    """The network for the `latent_shape` and `num_classes` in the config; None where the config lacks one of them."""
    data = config.data
    if data.latent_shape is None or data.num_classes is None:
        return None
    return network_of(config, data.latent_shape, data.num_classes)


def describe_model(config: RunConfig, network: SizedBackbone) -> str:
    """One line with the model's name, parameters, latent shape and classes, from a build on the meta device.

    Raises `UserError` where the model cannot be built, or cannot start from the weights of `init_from`.
    """
    backbone = network.on_meta()
    if config.init_from is not None:
        check_initial_weights(backbone, config.init_from)
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    return (
        f"model {config.model_name}: {millions:.1f}M parameters on latents {tuple(network.latent_shape)}, "
        f"{network.num_classes} classes"
    )


def check_times(config: RunConfig, diffusion: Diffusion) -> None:
    """Raise `UserError` where the network looks times up in a table, and the schedule has times outside the table."""
    times = diffusion.model_time(diffusion.schedule.grid())
    tabulated = getattr(config.model, "time_embedding", None) == "table"
    if tabulated and (times.min() < 0 or times.max() >= TableTime.ROWS):
        raise UserError(
            f"Model {config.model_name!r} has a table of {TableTime.ROWS} times, and this schedule tells it times "
            f"from {times.min():.2f} to {times.max():.2f}; set model.time_embedding=sinusoid, or another schedule."
        )


def open_shards(config: RunConfig) -> TrainingSet:
    """The shards of a run; `UserError` where they are missing, damaged, or differ from what the config states."""
    data = config.data
    shards = data.reader.open(data)
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


def say(line: str) -> None:
    """Print `line` on rank 0 only."""
    if distributed.rank() == 0:
        print(line, flush=True)


def load_autoencoder_of(shards: TrainingSet, device: torch.device) -> Autoencoder:
    """Load the autoencoder that encoded the shards onto `device`; `UserError` where another is found in its place."""
    made_with = shards.manifest.identity
    return load_this_autoencoder(made_with, made_with.id, device)

"""From a run config to objects: the only place that knows every room."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.autoencoders import Autoencoder, AutoencoderIdentity, load_this_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.backbones.embeddings import TableTime
from latentdebias.config import RunConfig, write_config
from latentdebias.data import LatentShards
from latentdebias.data.batches import BatchPlan, DataOptions, LatentBatches, check_flip, plan_batches
from latentdebias.data.cache import ShardCache
from latentdebias.data.normalization import LatentNormalization
from latentdebias.data.order import ORDERS
from latentdebias.diffusion import VARIANCES, Diffusion
from latentdebias.errors import UserError
from latentdebias.export import ModelConfig, save_model
from latentdebias.export.ema_profiles import name_of_std
from latentdebias.export.ema_snapshots import SnapshotFolder
from latentdebias.export.fitting import check_initial_weights, differences, load_initial_weights
from latentdebias.registry import load_plugins
from latentdebias.sampling import SAMPLERS
from latentdebias.sampling.images import ImageSampler, check_draw
from latentdebias.training.checkpoint import Checkpoints
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, check_deepspeed_options
from latentdebias.training.loss_meter import LossMeter
from latentdebias.training.run_lock import run_lock
from latentdebias.training.run_log import RunLog
from latentdebias.training.run_state import RunState
from latentdebias.training.sample_grid import SampleGrid
from latentdebias.training.trainer import Checkpointing, Hook, Logging, Trainer, TrainState, WithAverage

# Settings that may change between a checkpoint and the run that resumes it.
FREE_ON_RESUME = {
    "training": {
        "steps",
        "micro_batch_size",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "max_skipped",
        "sample_every",
        "export_every",
    },
    "ema": {"snapshot_every"},
    "data": {"shards", "cache", "cache_gb", "workers", "vae", "resolution", "latent_shape", "num_classes"},
}


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
    channels, side, _ = shapes.latent_shape
    with torch.device("meta"):
        spec = BACKBONES.build(config.model).without_pretrained()
        backbone = spec.build(side, channels, shapes.num_classes, _out_chans(config, channels))
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


def open_shards(config: RunConfig) -> LatentShards:
    """The shards of a run; `UserError` where they are missing, damaged, or not what the config says."""
    data = config.data
    shards = _remote_shards(data) if "://" in data.shards else _local_shards(data)
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


def _local_shards(data: DataOptions) -> LatentShards:
    return LatentShards(data.shards, data.vae or "ID_OR_DIR", data.resolution, data.flip)


def _remote_shards(data: DataOptions) -> LatentShards:
    if data.cache is None:
        raise UserError(
            f"data.shards {data.shards!r} is an address, and its shards are read through local copies; name a folder "
            f"for them, one a set: --set data.cache=FOLDER"
        )
    return ShardCache(data.shards, data.cache, int(data.cache_gb * 1e9)).open()


def prepare(config: RunConfig) -> LatentShards:
    """Check all that can be checked before a process group starts, and open the run's shards."""
    load_plugins(config.imports)
    check_deepspeed_options(config.deepspeed)
    diffusion, shapes = build_diffusion(config), stated_shapes(config)
    check_times(config, diffusion)
    SAMPLERS.build(config.sampling.sampler)
    ORDERS.build(config.data.order)
    if shapes is not None:
        _say(describe_model(config, shapes))
    shards = open_shards(config)
    if shapes is None:
        _say(describe_model(config, Shapes(shards.latent_shape, shards.num_classes)))
    if config.init_from is not None:
        normalization = LatentNormalization.of_manifest(shards.manifest, config.data.normalization)
        _say("\n".join(differences(config.init_from, diffusion, normalization)))
    num_classes, channels = shards.num_classes, shards.latent_shape[0]
    check_draw(config.sampling.for_classes(num_classes), diffusion, num_classes, channels)
    check_flip(config.data, shards)
    _plan(config)
    if config.training.sample_every:
        _load_autoencoder(shards, torch.device("cpu"))
    try:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir {config.run_dir!r} cannot be made ({error.strerror}); set another one.") from None
    return shards


def _say(line: str) -> None:
    if distributed.rank() == 0:
        print(line, flush=True)


def _plan(config: RunConfig) -> BatchPlan:
    training = config.training
    return plan_batches(
        training.seed,
        training.batch_size,
        training.micro_batch_size,
        distributed.rank(),
        distributed.world_size(),
    )


def _load_autoencoder(shards: LatentShards, device: torch.device) -> Autoencoder:
    made_with = AutoencoderIdentity(**shards.manifest.autoencoder)
    return load_this_autoencoder(made_with, made_with.id, device)


class Run:
    """A training run, assembled under a started process group; `train` runs it to its end."""

    def __init__(self, config: RunConfig, shards: LatentShards) -> None:
        self.config, self.shards, self.run_dir = config, shards, Path(config.run_dir)
        self.shapes = Shapes(shards.latent_shape, shards.num_classes)
        self.diffusion = build_diffusion(config)
        self.normalization = LatentNormalization.of_manifest(shards.manifest, config.data.normalization)
        training, self.plan = config.training, _plan(config)
        self.batches = LatentBatches(shards, self.plan, config.data, self.normalization)
        torch.manual_seed(training.seed)
        self.engine = Engine(
            initial_backbone(config, self.shapes),
            self.plan,
            config.optimizer,
            training.precision,
            training.grad_clip,
            config.deepspeed,
        )
        self.ema = PartitionedEMA(self.engine.fp32_partitions(), config.ema)
        self.snapshots = SnapshotFolder(self.run_dir)
        self.checkpoints = Checkpoints(
            self.run_dir / "checkpoints",
            RunState(self.engine, self.ema),
            self._settings(),
            training.keep_checkpoints,
            training.keep_every,
        )

    def train(self) -> None:
        """Resume where there is a checkpoint, train to the last step, and export the model directory."""
        with run_lock(self.run_dir, self.engine.device):
            self._train(self.checkpoints.resume(), self.config.training.steps)

    def export(self, average: str) -> None:
        """Write the model directory of the newest checkpoint's `average`, without training."""
        with run_lock(self.run_dir, self.engine.device):
            step = self.checkpoints.resume()
            if step == 0:
                raise UserError(f"{self.run_dir} has no checkpoint to export; train first, without --export.")
            self._write_model(step, average)

    def _train(self, first: int, last: int) -> None:
        if first > last:
            raise UserError(
                f"{self.run_dir} has trained {first} steps, and training.steps is {last}; raise it with --set "
                f"training.steps=N, or set another run_dir."
            )
        if distributed.rank() == 0:
            write_config(self.config, self.run_dir / "config.yaml")
            if self.config.ema.snapshot_every:
                self.snapshots.start_at(first, self._model_config(first, self.config.ema.first))
        state = TrainState(first)
        with self._log(first, last) as log:
            hooks, meter = self._hooks(log, first)
            batches = self.batches.loader(first, last, self.engine.device)
            options = self.config.training
            optimizer = self.config.optimizer
            Trainer(self.engine, self.diffusion, self.ema, batches, meter, optimizer, options, state, hooks).run()
        self._write_model(state.step, self.config.ema.first)

    def _write_model(self, step: int, average: str) -> None:
        WithAverage(0, self.engine, self.ema, average, functools.partial(self._export, average)).now(step)

    @contextmanager
    def _log(self, first: int, last: int) -> Iterator[RunLog | None]:
        log = RunLog(self.run_dir, first, last) if distributed.rank() == 0 else None
        try:
            yield log
        finally:
            if log is not None:
                log.close()

    def _hooks(self, log: RunLog | None, first: int) -> tuple[list[Hook], LossMeter]:
        options, meter = self.config.training, LossMeter(self.engine.device)
        average = self.config.ema.first
        logging = Logging(log, meter, self.engine, self.config.optimizer, options)
        logging.start_at(first)
        hooks: list[Hook] = [
            logging,
            # Before the checkpoint: a run killed between the two writes its snapshot again.
            *self._snapshots(),
            Checkpointing(self.checkpoints, options),
            WithAverage(options.export_every, self.engine, self.ema, average, functools.partial(self._export, average)),
        ]
        if options.sample_every:
            grid = self._sample_grid() if distributed.rank() == 0 else None
            hooks.append(WithAverage(options.sample_every, self.engine, self.ema, average, grid))
        return hooks, meter

    def _snapshots(self) -> list[Hook]:
        every, stds = self.config.ema.snapshot_every, self.config.ema.stds
        writers = {name_of_std(std): functools.partial(self.snapshots.write, std) for std in stds}
        return [WithAverage(every, self.engine, self.ema, name, write) for name, write in writers.items()]

    def _sample_grid(self) -> SampleGrid:
        device = self.engine.device
        sampler = ImageSampler(
            build_backbone(self.config, self.shapes).to(device).eval(),
            self.diffusion,
            self.normalization,
            _load_autoencoder(self.shards, device),
            self.shapes.latent_shape,
            self.shapes.num_classes,
        )
        return SampleGrid(self.run_dir / "samples", sampler, self.config.sampling)

    def _export(self, average: str, step: int, weights: dict[str, Tensor]) -> None:
        save_model(self.run_dir / "model", self._model_config(step, average), weights)

    def _model_config(self, step: int, average: str) -> ModelConfig:
        manifest = self.shards.manifest
        return ModelConfig(
            imports=self.config.imports,
            model=BACKBONES.spec_of(BACKBONES.build(self.config.model).without_pretrained()),
            diffusion=self.diffusion.spec(),
            latent_shape=self.shapes.latent_shape,
            num_classes=self.shapes.num_classes,
            class_names=manifest.class_names,
            normalization=self.normalization,
            resolution=manifest.resolution,
            autoencoder=AutoencoderIdentity(**manifest.autoencoder),
            step=step,
            ema=average,
        )

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed, as flat `section.key: value`."""
        plain = self.config.plain()
        settings = {
            f"{section}.{key}": value
            for section in ("data", "model", "diffusion", "optimizer", "training", "ema")
            for key, value in plain[section].items()
            if key not in FREE_ON_RESUME.get(section, ())
        }
        shards = self.shards.manifest.shards
        return {
            **settings,
            "data (sha256)": hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest(),
        }

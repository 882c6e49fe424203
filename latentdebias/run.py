"""A training run, from its config to its model directory: the only place that knows every room."""

import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.autoencoders import AutoencoderIdentity
from latentdebias.backbones import BACKBONES
from latentdebias.backbones.blocks import checkpoint_blocks, compile_blocks
from latentdebias.backbones.flops import forward_flops
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.reader import TrainingSet
from latentdebias.config import RunConfig, write_config
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.errors import UserError
from latentdebias.models.ema_profiles import name_of_std
from latentdebias.models.ema_snapshots import SnapshotFolder
from latentdebias.models.model_directory import ModelConfig, save_model
from latentdebias.prepare import (
    Shapes,
    batch_plan,
    build_backbone,
    build_diffusion,
    initial_backbone,
    load_autoencoder_of,
    say,
)
from latentdebias.sampling import LatentModel, Network
from latentdebias.training.checkpoints.checkpoint import CheckpointPolicy, Checkpoints
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, gather_whole_blocks
from latentdebias.training.hooks import HOOKS, HookContext
from latentdebias.training.hooks.checkpointing import Checkpointing
from latentdebias.training.hooks.evaluation import InLoopEvaluation
from latentdebias.training.hooks.logging import Logging
from latentdebias.training.hooks.sample_grid import SampleGrid
from latentdebias.training.hooks.with_average import UseWeights, WithAverage
from latentdebias.training.lr_schedules import LR_SCHEDULES
from latentdebias.training.monitor.log_writers import open_writers
from latentdebias.training.monitor.loss_meter import LossMeter
from latentdebias.training.monitor.peak_flops import find_peak
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.monitor.speed import Speedometer, WaitClock, Workload
from latentdebias.training.optimizers import OPTIMIZERS
from latentdebias.training.stopping.agreement import Agreement
from latentdebias.training.stopping.run_lock import run_lock
from latentdebias.training.stopping.stopping import Stopping, StopRequest, unless_stopped
from latentdebias.training.stopping.watchdog import Watchdog
from latentdebias.training.trainer import Hook, Trainer, TrainState
from latentdebias.training.zero_state import ZeroState

CHECKPOINTS = "checkpoints"

# Settings that may change between a checkpoint and the run that resumes it.
FREE_ON_RESUME = {
    "training": {
        "steps",
        "micro_batch_size",
        "activation_checkpointing",
        "compile",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "may_change",
        "max_skipped",
        "sample_every",
        "export_every",
        "stop_within",
        "hang_timeout",
        "peak_tflops",
        "wandb_project",
    },
    "ema": {"snapshot_every"},
    "data": {
        "reader",
        "shards",
        "cache",
        "cache_gb",
        "workers",
        "vae",
        "resolution",
        "latent_shape",
        "num_classes",
        "num_images",
    },
}


def check_exportable(config: RunConfig) -> None:
    """Raise `UserError` where there is no run to export."""
    if not (Path(config.run_dir) / CHECKPOINTS).is_dir():
        raise UserError(f"{config.run_dir} has no checkpoint to export; train first, without --export.")


class Run:
    """A training run, assembled under a started process group; `train` runs it to its end."""

    def __init__(self, config: RunConfig, shards: TrainingSet) -> None:
        self.config, self.shards, self.run_dir = config, shards, Path(config.run_dir)
        self.shapes = Shapes(shards.latent_shape, shards.num_classes)
        self.diffusion = build_diffusion(config)
        self.normalization = LatentNormalization.of_manifest(shards.manifest, config.data.normalization)
        training, self.plan = config.training, batch_plan(config)
        self.batches = LatentBatches(shards, self.plan, config.data, self.normalization)
        torch.manual_seed(training.seed)
        self.engine = Engine(
            self._trained_backbone(),
            self.plan,
            OPTIMIZERS.build(config.optimizer),
            training.precision,
            training.grad_clip,
            config.deepspeed,
        )
        self.zero_state = ZeroState(self.engine)
        self.ema = PartitionedEMA(self.zero_state.partitions, config.ema)
        self.state = RunState(self.zero_state, self.ema)
        self.snapshots = SnapshotFolder(self.run_dir)
        self.checkpoints = Checkpoints(
            self.run_dir / CHECKPOINTS,
            self.state,
            self._settings(),
            CheckpointPolicy(training.keep_checkpoints, training.keep_every, training.may_change),
        )

    def _trained_backbone(self) -> nn.Module:
        backbone, training = initial_backbone(self.config, self.shapes), self.config.training
        if training.compile == "blocks":
            compile_blocks(backbone)
        if training.activation_checkpointing == "blocks":
            checkpoint_blocks(backbone)
        if "blocks" in (training.compile, training.activation_checkpointing):
            gather_whole_blocks(backbone)
        return backbone

    def train(self) -> TrainState:
        """Resume where there is a checkpoint, train to the last step, and export the model directory.

        A signal or the end of the launcher stops it earlier, after a checkpoint; the answer's `stopped_by` says which.
        """
        with run_lock(self.run_dir, self.engine.device):
            return self._train(self.checkpoints.resume(), self.config.training.steps)

    def export(self, average: str) -> None:
        """Write the model directory of the newest checkpoint's `average`, without training."""
        with run_lock(self.run_dir, self.engine.device):
            step = self.checkpoints.resume()
            if step == 0:
                raise UserError(f"{self.run_dir} has no checkpoint to export; train first, without --export.")
            self._write_model(step, average)

    def _train(self, first: int, last: int) -> TrainState:
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
        with self.training(state, last) as train:
            train(last - first)
        if state.stopped_by:
            self._say_stopped(state)
        else:
            self._write_model(state.step, self.config.ema.first)
        return state

    @contextmanager
    def training(self, state: TrainState, last: int) -> Iterator[Callable[[int], None]]:
        """Within the block the run is watched and logged, and the function given trains so many steps further.

        They begin at `state.step` and may not go beyond the step `last`; after a stop the function does nothing.
        """
        options, request, waited = self.config.training, StopRequest(), WaitClock()
        workload = self._workload()
        with (
            self._log(state.step, last) as log,
            Watchdog(request, options.hang_timeout, options.stop_within).watching() as watchdog,
            closing(self.batches.loader(state.step, last, self.engine.device)) as batches,
        ):
            agreement, meter = Agreement(2), LossMeter(self.engine.device)
            speed = Speedometer(workload, waited, self.engine.device, state.step)
            lr_schedule = LR_SCHEDULES.build(self.config.lr_schedule)
            trainer = Trainer(self.engine, self.diffusion, self.ema, lr_schedule, meter, options)
            hooks: list[Hook] = [
                watchdog.beat,
                Stopping(request, self.checkpoints, agreement),
                Logging(log, meter, self.engine, options, speed),
                *self._hooks(log, watchdog),
            ]
            micro_batches = waited.around(batches)

            def train(steps: int) -> None:
                trainer.run(state, itertools.islice(micro_batches, steps * self.plan.accumulation), hooks)

            yield train
            agreement.close()

    def _say_stopped(self, state: TrainState) -> None:
        if distributed.rank() == 0:
            line = (
                f"stopped at step {state.step} on {state.stopped_by}; the checkpoint is in "
                f"{self.checkpoints.directory}; the same command resumes"
            )
            print(line, file=sys.stderr, flush=True)

    def _write_model(self, step: int, average: str) -> None:
        WithAverage(self.state, average, 0, functools.partial(self._export, average)).now(step)

    @contextmanager
    def _log(self, first: int, last: int) -> Iterator[RunLog | None]:
        log = None
        if distributed.rank() == 0:
            project = self.config.training.wandb_project
            log = RunLog(open_writers(self.run_dir, first, project, self.config.plain()), first, last)
        try:
            yield log
        finally:
            if log is not None:
                log.close()

    def _workload(self) -> Workload:
        training, shapes, device = self.config.training, self.shapes, self.engine.device
        peak = find_peak(device, training.precision, training.peak_tflops)
        say(f"peak {peak.flops / 1e12:.4g} TFLOP/s a rank ({peak.origin})")
        flops = forward_flops(BACKBONES.build(self.config.model), shapes.latent_shape, shapes.num_classes)
        flops_per_image = None if flops is None else flops.training()
        return Workload(training.batch_size, flops_per_image, peak.flops * self.plan.world_size)

    def _hooks(self, log: RunLog | None, watchdog: Watchdog) -> list[Hook]:
        """What runs after every update, in this order: the run's own hooks, then the user's."""
        config, run = self.config, self._hook_context(log)
        hooks: list[Hook] = [
            # Before the checkpoint: a run killed between the two writes its snapshot again.
            *self._snapshots(),
            watchdog.unwatched(Checkpointing(self.checkpoints, config.training)),
        ]
        export = functools.partial(self._export, run.average)
        uses: list[tuple[int, Callable[[], UseWeights]]] = [
            (config.training.export_every, lambda: export),
            (config.training.sample_every, lambda: SampleGrid(config.sampling, run)),
            (config.evaluation.every, lambda: InLoopEvaluation(config.evaluation, run)),
        ]
        for every, use in uses:
            if every:
                # They may take long, and nothing of them is needed to resume.
                average = WithAverage(self.state, run.average, every, None if log is None else use())
                hooks.append(unless_stopped(watchdog.unwatched(average)))
        return [*hooks, *(watchdog.unwatched(HOOKS.build(hook).build(run)) for hook in config.hooks)]

    def _hook_context(self, log: RunLog | None) -> HookContext:
        return HookContext(
            run_dir=self.run_dir,
            rank=distributed.rank(),
            diffusion=self.diffusion,
            manifest=self.shards.manifest,
            average=self.config.ema.first,
            state=self.state,
            log=log,
            open_image_sampler=lambda: self._image_sampler,
        )

    def _snapshots(self) -> list[Hook]:
        every, stds = self.config.ema.snapshot_every, self.config.ema.stds
        writers = {name_of_std(std): functools.partial(self.snapshots.write, std) for std in stds}
        return [WithAverage(self.state, name, every, write) for name, write in writers.items()]

    @functools.cached_property
    def _image_sampler(self) -> ImageSampler:
        device = self.engine.device
        network = Network(build_backbone(self.config, self.shapes).to(device).eval(), self.diffusion)
        model = LatentModel(network, self.shapes.latent_shape, self.shapes.num_classes)
        return ImageSampler(model, self.normalization, load_autoencoder_of(self.shards, device))

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
        # Written out by the registries, a value and the same value left at its default are equal.
        optimizer = OPTIMIZERS.spec_of(OPTIMIZERS.build(self.config.optimizer))
        lr_schedule = LR_SCHEDULES.spec_of(LR_SCHEDULES.build(self.config.lr_schedule))
        plain = {**self.config.plain(), "optimizer": optimizer, "lr_schedule": lr_schedule}
        settings = {
            f"{section}.{key}": value
            for section in ("data", "model", "diffusion", "optimizer", "lr_schedule", "training", "ema")
            for key, value in plain[section].items()
            if key not in FREE_ON_RESUME.get(section, ())
        }
        shards = self.shards.manifest.shards
        return {
            **settings,
            # The reader is free where it leaves the order to `data.order`; any other says what decides its order.
            **self.shards.resume_settings(self.plan.world_size),
            "data (sha256)": hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest(),
        }

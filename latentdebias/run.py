"""A training run, from its config to its model directory: the only place that knows every room."""

import functools
import hashlib
import sys
from collections.abc import Iterator
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
from latentdebias.batches.reader import TrainingSet
from latentdebias.config import RunConfig, write_config
from latentdebias.config.resume import ResumeSettings
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.errors import UserError
from latentdebias.models.ema_profiles import name_of_std
from latentdebias.models.ema_snapshots import SnapshotFolder
from latentdebias.models.init_from import load_initial_weights
from latentdebias.models.model_directory import ModelConfig, save_model
from latentdebias.prepare import Prepared, say
from latentdebias.training.checkpoints.checkpoint import CheckpointPolicy, Checkpoints
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, gather_whole_blocks
from latentdebias.training.hooks.evaluation import InLoopEvaluation
from latentdebias.training.hooks.sample_grid import SampleGrid
from latentdebias.training.monitor.log_writers import open_writers
from latentdebias.training.monitor.logging_hook import Logging
from latentdebias.training.monitor.loss_meter import LossMeter
from latentdebias.training.monitor.peak_flops import find_peak
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.monitor.speed import Speedometer, WaitClock, Workload
from latentdebias.training.stopping.agreement import Agreement
from latentdebias.training.stopping.run_lock import run_lock
from latentdebias.training.stopping.stopping import Stopping, StopRequest, unless_stopped
from latentdebias.training.stopping.watchdog import Watchdog
from latentdebias.training.trainer import Checkpointing, Hook, Trainer, TrainState, UseWeights, WithAverage

CHECKPOINTS = "checkpoints"


def check_exportable(config: RunConfig) -> None:
    """Raise `UserError` where there is no run to export."""
    if not (Path(config.run_dir) / CHECKPOINTS).is_dir():
        raise UserError(f"{config.run_dir} has no checkpoint to export; train first, without --export.")


class Run:
    """A prepared training run, assembled under a started process group; `train` runs it to its end."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.config = prepared, prepared.config
        self.run_dir, training = Path(self.config.run_dir), self.config.training
        self.diffusion, self.plan = prepared.diffusion, prepared.batch_plan
        self.batches = LatentBatches(prepared.shards, self.plan, self.config.data, prepared.normalization)
        torch.manual_seed(training.seed)
        self.engine = Engine(
            self._trained_backbone(),
            self.plan,
            self.config.optimizer,
            training.precision,
            training.grad_clip,
            self.config.deepspeed,
        )
        self.ema = PartitionedEMA(self.engine.fp32_partitions(), self.config.ema)
        self.snapshots = SnapshotFolder(self.run_dir)
        self.checkpoints = Checkpoints(
            self.run_dir / CHECKPOINTS,
            RunState(self.engine, self.ema),
            ResumeSettings(self.config, _data_identity(prepared.shards, self.plan.world_size), training.may_change),
            CheckpointPolicy(training.keep_checkpoints, training.keep_every),
        )

    def _trained_backbone(self) -> nn.Module:
        """The network to train: freshly initialised, or with the weights of `init_from`."""
        backbone, training = self.prepared.network.build(), self.config.training
        if self.config.init_from is not None:
            load_initial_weights(backbone, self.config.init_from)
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
        with self.trainer(state, last) as trainer:
            trainer.run()
        if state.stopped_by:
            self._say_stopped(state)
        else:
            self._write_model(state.step, self.config.ema.first)
        return state

    @contextmanager
    def trainer(self, state: TrainState, last: int) -> Iterator[Trainer]:
        """The loop from `state` to the step `last`, with all hooks, watched for the length of a with-block."""
        options, request, waited = self.config.training, StopRequest(), WaitClock()
        workload = self._workload()
        with (
            self._log(state.step, last) as log,
            Watchdog(request, options.hang_timeout, options.stop_within).watching() as watchdog,
            closing(self.batches.loader(state.step, last, self.engine.device)) as batches,
        ):
            agreement = Agreement(2)
            meter = LossMeter(self.engine.device)
            speed = Speedometer(workload, waited, self.engine.device, state.step)
            logging = Logging(log, meter, self.engine, options, speed)
            hooks: list[Hook] = [
                watchdog.beat,
                Stopping(request, self.checkpoints, agreement),
                logging,
                *self._hooks(log, watchdog),
            ]
            yield Trainer(
                self.engine,
                self.diffusion,
                self.ema,
                waited.around(batches),
                meter,
                self.config.lr_schedule,
                options,
                state,
                hooks,
            )
            agreement.close()

    def _say_stopped(self, state: TrainState) -> None:
        if distributed.rank() == 0:
            line = (
                f"stopped at step {state.step} on {state.stopped_by}; the checkpoint is in "
                f"{self.checkpoints.directory}; the same command resumes"
            )
            print(line, file=sys.stderr, flush=True)

    def _write_model(self, step: int, average: str) -> None:
        WithAverage(0, self.engine, self.ema, average, functools.partial(self._export, average)).now(step)

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
        training, network = self.config.training, self.prepared.network
        peak = find_peak(self.engine.device, training.precision, training.peak_tflops)
        say(f"peak {peak.flops / 1e12:.4g} TFLOP/s a rank ({peak.origin})")
        flops = forward_flops(network.spec, network.latent_shape, network.num_classes)
        flops_per_image = None if flops is None else flops.training()
        return Workload(training.batch_size, flops_per_image, peak.flops * self.plan.world_size)

    def _hooks(self, log: RunLog | None, watchdog: Watchdog) -> list[Hook]:
        options = self.config.training
        hooks: list[Hook] = [
            # Before the checkpoint: a run killed between the two writes its snapshot again.
            *self._snapshots(),
            watchdog.unwatched(Checkpointing(self.checkpoints, options)),
            self._unhurried(options.export_every, functools.partial(self._export, self.config.ema.first), watchdog),
        ]
        if options.sample_every:
            hooks.append(
                self._unhurried(options.sample_every, None if log is None else self._sample_grid(log), watchdog)
            )
        if every := self.config.evaluation.every:
            hooks.append(self._unhurried(every, None if log is None else self._evaluation(log), watchdog))
        return hooks

    def _unhurried(self, every: int, use: UseWeights | None, watchdog: Watchdog) -> Hook:
        """What may take long with the average, and is not needed to resume."""
        return unless_stopped(watchdog.unwatched(WithAverage(every, self.engine, self.ema, self.config.ema.first, use)))

    def _snapshots(self) -> list[Hook]:
        every, stds = self.config.ema.snapshot_every, self.config.ema.stds
        writers = {name_of_std(std): functools.partial(self.snapshots.write, std) for std in stds}
        return [WithAverage(every, self.engine, self.ema, name, write) for name, write in writers.items()]

    def _sample_grid(self, log: RunLog) -> SampleGrid:
        show = functools.partial(log.write_image, "samples")
        names = self.prepared.shards.manifest.class_names
        return SampleGrid(self.run_dir / "samples", self._image_sampler, self.config.sampling, names, show)

    def _evaluation(self, log: RunLog) -> InLoopEvaluation:
        opened, average = self.prepared.evaluation, self.config.ema.first
        assert opened is not None, "prepare opens what a run with evaluation.every scores against"
        return InLoopEvaluation(self.run_dir, self._image_sampler, self.config.evaluation, opened, average, log.write)

    @functools.cached_property
    def _image_sampler(self) -> ImageSampler:
        prepared, network = self.prepared, self.prepared.network
        assert prepared.autoencoder is not None, "prepare opens the autoencoder of a run that draws"
        return ImageSampler(
            network.untrained().build().to(self.engine.device).eval(),
            self.diffusion,
            prepared.normalization,
            prepared.autoencoder,
            network.latent_shape,
            network.num_classes,
        )

    def _export(self, average: str, step: int, weights: dict[str, Tensor]) -> None:
        save_model(self.run_dir / "model", self._model_config(step, average), weights)

    def _model_config(self, step: int, average: str) -> ModelConfig:
        prepared, manifest = self.prepared, self.prepared.shards.manifest
        return ModelConfig(
            imports=list(self.config.imports),
            model=BACKBONES.spec_of(prepared.network.untrained().spec),
            diffusion=self.diffusion.spec(),
            latent_shape=prepared.network.latent_shape,
            num_classes=prepared.network.num_classes,
            class_names=manifest.class_names,
            normalization=prepared.normalization,
            resolution=manifest.resolution,
            autoencoder=AutoencoderIdentity(**manifest.autoencoder),
            step=step,
            ema=average,
        )


def _data_identity(shards: TrainingSet, world_size: int) -> dict[str, Any]:
    """What tells a checkpoint's samples from others, besides options: the data, and what decides its order."""
    digests = "".join(shard.sha256 for shard in shards.manifest.shards)
    sha256 = hashlib.sha256(digests.encode()).hexdigest()
    return {"data (sha256)": sha256, **shards.resume_settings(world_size)}

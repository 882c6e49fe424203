"""A training run, from its checked config to its model directory: the one module that connects all packages."""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.backbones.blocks import checkpoint_blocks, compile_blocks
from latentdebias.backbones.flops import forward_flops
from latentdebias.batches.batch import Batch
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.plan import plan_batches
from latentdebias.config import RunConfig, write_config
from latentdebias.config.resume import ResumeSettings
from latentdebias.diffusion.weightings.learned import Edm2Uncertainty, add_uncertainty
from latentdebias.diffusion.weightings.solved import Pareto
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.errors import UserError
from latentdebias.models.ema_profiles import name_of_std
from latentdebias.models.ema_snapshots import SnapshotFolder
from latentdebias.models.init_from import load_initial_weights
from latentdebias.models.model_directory import save_model
from latentdebias.precision import set_precision
from latentdebias.prepare import Prepared, load_autoencoder_of, say
from latentdebias.sampling import LatentModel, Network
from latentdebias.training.checkpoints.checkpoint import CheckpointPolicy, Checkpoints
from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.compiling import allow_attention, what_to_compile
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, gather_whole_blocks, why_not_compiled
from latentdebias.training.hooks import HookContext, pareto, together
from latentdebias.training.hooks.checkpointing import Checkpointing
from latentdebias.training.hooks.evaluation import InLoopEvaluation, OpenedEvaluation
from latentdebias.training.hooks.logging import Logging
from latentdebias.training.hooks.sample_grid import SampleGrid
from latentdebias.training.hooks.with_average import UseWeights, WithAverage, on_first_rank
from latentdebias.training.monitor.log_writers import open_writers
from latentdebias.training.monitor.loss_meter import LossMeter
from latentdebias.training.monitor.peak_flops import find_peak
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.monitor.speed import Speedometer, WaitClock, Workload
from latentdebias.training.optimizers import optimizer_bytes
from latentdebias.training.stopping.agreement import Agreement
from latentdebias.training.stopping.run_lock import run_lock
from latentdebias.training.stopping.stopping import Stopping, StopRequest, unless_stopped
from latentdebias.training.stopping.watchdog import Watchdog
from latentdebias.training.trainer import Hook, Trainer, TrainState
from latentdebias.training.zero_state import ZeroState

CHECKPOINTS = "checkpoints"


def kept_model(run_dir: Path, step: int) -> Path:
    """The model directory of a step that `training.export_at` names."""
    return run_dir / "models" / f"step-{step:08d}"


def check_exportable(config: RunConfig) -> None:
    """Raise `UserError` where `run_dir` has no folder of checkpoints to export from."""
    if not (Path(config.run_dir) / CHECKPOINTS).is_dir():
        raise UserError(f"{config.run_dir} has no checkpoint to export; train first, without --export.")


class Run:
    """A prepared training run, which `train` runs to its end; made once the process group has started."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.config = prepared, prepared.config
        self.run_dir, training = Path(self.config.run_dir), self.config.training
        self.diffusion, self.plan = prepared.diffusion, prepared.batch_plan
        self.batches = LatentBatches(prepared.shards, self.plan, self.config.data, prepared.normalization)
        torch.manual_seed(training.seed)
        set_precision(training.precision)
        allow_attention(training.attention)
        self.engine = Engine(
            self._trained_backbone(),
            self.plan,
            self.config.optimizer,
            training.precision,
            training.grad_clip,
            self.config.deepspeed,
        )
        self.zero_state = ZeroState(self.engine)
        self.ema = PartitionedEMA(self.zero_state.partitions, self.config.ema)
        self.state = RunState(self.zero_state, self.ema)
        pareto.share_weights(self.state, self.diffusion)
        if self.diffusion.loss_history is not None:
            self.state.shared["loss_history"] = self.diffusion.loss_history.on(self.engine.device)
        self.snapshots = SnapshotFolder(self.run_dir)
        self.checkpoints = Checkpoints(
            self.run_dir / CHECKPOINTS,
            self.state,
            ResumeSettings(self.config, prepared.data_identity(), training.may_change),
            CheckpointPolicy(training.keep_checkpoints, training.keep_every, training.stop_within),
        )

    def _trained_backbone(self) -> nn.Module:
        """The network to train: freshly initialised, or with the weights of `init_from`."""
        backbone, training = self.prepared.network.build(), self.config.training
        if self.config.init_from is not None:
            load_initial_weights(backbone, self.config.init_from)
        compiled, reason = what_to_compile(
            training.compile,
            backbone,
            self.prepared.device,
            training.deterministic,
            why_not_compiled(self.config.deepspeed),
        )
        say(f"compiled: {compiled} ({reason})")
        if compiled == "blocks":
            compile_blocks(backbone)
        if training.activation_checkpointing == "blocks":
            checkpoint_blocks(backbone)
        if "blocks" in (compiled, training.activation_checkpointing):
            gather_whole_blocks(backbone)
        if isinstance(self.diffusion.weighting, Edm2Uncertainty):
            add_uncertainty(backbone, self.diffusion.weighting, self.diffusion.schedule)
        return backbone

    def train(self) -> TrainState:
        """Resume where there is a checkpoint, train to the last step, and export the model directory.

        A signal or the end of the launcher stops training earlier, after a checkpoint; `stopped_by` of the returned
        state says which.
        """
        with run_lock(self.run_dir):
            return self._train(self.checkpoints.resume(), self.config.training.steps)

    def export(self, average: str) -> None:
        """Write the model directory with the average `average` of the newest checkpoint, without training.

        Raises `UserError` where there is no checkpoint.
        """
        with run_lock(self.run_dir):
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
                self.snapshots.start_at(first, self.prepared.model_config(first, self.config.ema.first))
        say(self.checkpoints.describe_memory(optimizer_bytes(self.config.optimizer)))
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
        """A context in which the run is watched and logged, with a function that trains a given number of steps.

        The steps begin at `state.step` and may not go beyond step `last`; after a stop the function does nothing.
        """
        options, request, waited = self.config.training, StopRequest(), WaitClock()
        workload = self._workload()
        with (
            self._log(state.step, last) as log,
            Watchdog(request, options.hang_timeout, options.stop_within).watching() as watchdog,
            closing(self.batches.loader(state.step, last, self.engine.device)) as batches,
        ):
            agreement, meter, solving = Agreement(2), LossMeter(self.engine.device), None
            if isinstance(self.diffusion.weighting, Pareto):
                solving = pareto.ParetoWeights(self.state, self.diffusion, self._batch_at, self._second_backbone, log)
                solving.start_at(state.step)
            speed = Speedometer(workload, waited, self.engine.device, state.step)
            trainer = Trainer(self.engine, self.diffusion, self.ema, self.config.lr_schedule, meter, options)
            hooks: list[Hook] = [
                watchdog.beat,
                Stopping(request, self.checkpoints, agreement),
                Logging(log, meter, self.engine, options, speed),
                *self._hooks(log, watchdog, solving),
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
        model_dir = self.run_dir / "model"
        WithAverage(self.state, average, 0, on_first_rank(functools.partial(self._export, average, model_dir))).now(
            step
        )
        say(f"step {step}: the model, with average {average}, is in {model_dir}")

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

    def _batch_at(self, step: int) -> Batch:
        """The whole global batch of the step after `step` updates, on this rank's device."""
        prepared, plan = self.prepared, self.plan
        whole = plan_batches(plan.seed, plan.batch_size, None, rank=0, world_size=1)
        batches = LatentBatches(prepared.shards, whole, self.config.data, prepared.normalization)
        return next(batches.of(range(step, step + 1))).to(self.engine.device)

    def _second_backbone(self) -> nn.Module:
        """Another network like the trained one, for other weights."""
        return self.prepared.network.untrained().build().to(self.engine.device).eval()

    def _hooks(self, log: RunLog | None, watchdog: Watchdog, solving: pareto.ParetoWeights | None) -> list[Hook]:
        """The hooks that are called after every update, in this order: the run's own, then the user's."""
        config, run = self.config, self._hook_context(log)
        hooks: list[Hook] = [
            # Before the checkpoint: a run killed between the two writes its snapshot again.
            *self._snapshots(),
            *([] if solving is None else [watchdog.unwatched(solving)]),
            watchdog.unwatched(self._keep_model),
            watchdog.unwatched(Checkpointing(self.checkpoints, config.training)),
        ]
        export = functools.partial(self._export, run.average, self.run_dir / "model")
        uses: list[tuple[int, Callable[[], UseWeights]]] = [
            (config.training.export_every, lambda: on_first_rank(export)),
            (config.training.sample_every, lambda: SampleGrid(config.sampling, run)),
            (config.evaluation.every, lambda: InLoopEvaluation(config.evaluation, self._evaluation, run)),
        ]
        for every, use in uses:
            if every:
                # Exports and drawing may take long, and a resumed run does not need them: not watched, and left out
                # at the step at which the run stops.
                average = WithAverage(self.state, run.average, every, use())
                hooks.append(unless_stopped(watchdog.unwatched(average)))
        if config.hooks:
            hooks.append(watchdog.unwatched(together([hook.build(run) for hook in config.hooks])))
        return hooks

    def _hook_context(self, log: RunLog | None) -> HookContext:
        return HookContext(
            run_dir=self.run_dir,
            rank=distributed.rank(),
            diffusion=self.diffusion,
            manifest=self.prepared.shards.manifest,
            average=self.config.ema.first,
            state=self.state,
            log=log,
            open_image_sampler=lambda: self._image_sampler,
        )

    def _snapshots(self) -> list[Hook]:
        every, stds = self.config.ema.snapshot_every, self.config.ema.stds
        writers = {name_of_std(std): on_first_rank(functools.partial(self.snapshots.write, std)) for std in stds}
        return [WithAverage(self.state, name, every, write) for name, write in writers.items()]

    @property
    def _evaluation(self) -> OpenedEvaluation:
        assert self.prepared.evaluation is not None, "prepare opens what a run with evaluation.every scores against"
        return self.prepared.evaluation

    @functools.cached_property
    def _image_sampler(self) -> ImageSampler:
        prepared, sized, device = self.prepared, self.prepared.network, self.engine.device
        network = Network(self._second_backbone(), self.diffusion)
        model = LatentModel(network, sized.latent_shape, sized.num_classes)
        autoencoder = prepared.autoencoder or load_autoencoder_of(prepared.shards, device)
        return ImageSampler(model, prepared.normalization, autoencoder)

    def _keep_model(self, state: TrainState) -> None:
        """The hook that writes the models of `training.export_at`."""
        if state.step in self.config.training.export_at:
            average = self.config.ema.first
            export = on_first_rank(functools.partial(self._export, average, kept_model(self.run_dir, state.step)))
            WithAverage(self.state, average, 0, export).now(state.step)

    def _export(self, average: str, directory: Path, step: int, weights: dict[str, Tensor]) -> None:
        save_model(directory, self.prepared.model_config(step, average), weights)

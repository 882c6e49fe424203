"""The training loop, and the hooks that run after a step."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from latentdebias import distributed
from latentdebias.data.batches import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.training.checkpoint import Checkpoints
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, OptimizerOptions, Precision
from latentdebias.training.loss_meter import LossMeter
from latentdebias.training.run_log import RunLog


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config; `batch_size` is global, `grad_clip` 0 does not clip."""

    steps: PositiveInt
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    seed: NonNegativeInt = 0
    precision: Precision = "bf16"
    grad_clip: NonNegativeFloat = 1.0
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 10_000
    keep_checkpoints: PositiveInt = 2
    keep_every: NonNegativeInt = 0
    max_skipped: PositiveInt = 20
    sample_every: NonNegativeInt = 0
    export_every: NonNegativeInt = 0


@dataclass
class TrainState:
    """How far a run is: updates done."""

    step: int = 0


Hook = Callable[[TrainState], None]
UseWeights = Callable[[int, dict[str, Tensor]], None]


class Trainer:
    """Runs the loop from `state.step` to `options.steps`; `hooks` run on every rank after every update."""

    def __init__(
        self,
        engine: Engine,
        diffusion: Diffusion,
        ema: PartitionedEMA,
        batches: Iterable[Batch],
        meter: LossMeter,
        optimizer: OptimizerOptions,
        options: TrainingOptions,
        state: TrainState,
        hooks: Sequence[Hook],
    ) -> None:
        self.engine, self.diffusion, self.ema, self.batches, self.meter = engine, diffusion, ema, batches, meter
        self.optimizer, self.options, self.state, self.hooks = optimizer, options, state, hooks

    def run(self) -> None:
        for batch in self.batches:
            t = self.diffusion.sample_timesteps(batch.u, batch.row, self.options.batch_size)
            losses = self.diffusion.loss(self.engine, batch.latents, batch.labels, t=t, eps=batch.eps)
            self.meter.add(losses, self.diffusion.schedule.to_unit(t))
            self.engine.backward(losses.mean())
            boundary = self.engine.is_gradient_accumulation_boundary()
            if boundary:
                self.engine.set_lr(self.optimizer.lr_at(self.state.step))
            self.engine.step()
            if boundary:
                self.state.step += 1
                self.ema.update(self.state.step)
                for hook in self.hooks:
                    hook(self.state)
                self.meter.next_step()


class Logging:
    """Hook: every `log_every` steps, the loss of the global batch, by bin of t since the last line, and speed."""

    def __init__(
        self,
        log: RunLog | None,
        meter: LossMeter,
        engine: Engine,
        optimizer: OptimizerOptions,
        options: TrainingOptions,
    ) -> None:
        self.log, self.meter, self.engine, self.optimizer, self.options = log, meter, engine, optimizer, options
        self._last = (0, time.perf_counter())

    def __call__(self, state: TrainState) -> None:
        if self.log is not None:
            self.log.advance()
        if state.step % self.options.log_every and state.step != self.options.steps:
            return
        loss, loss_by_t = self.meter.report()
        skipped, in_a_row = self.engine.skipped()
        if in_a_row >= self.options.max_skipped:
            raise UserError(
                f"The gradient was not finite in the last {in_a_row} updates up to step {state.step}, which were all "
                f"skipped (training.max_skipped is {self.options.max_skipped}). Lower optimizer.lr, set "
                f"training.grad_clip, or cap the weighting with max_weight; a rerun resumes from the last checkpoint."
            )
        if self.log is not None:
            record = {
                "loss": loss,
                "lr": self.optimizer.lr_at(state.step - 1),
                "grad_norm": self.engine.grad_norm(),
                "skipped_updates": skipped,
                "images_per_second": self._images_per_second(state.step),
                "loss_by_t": loss_by_t,
            }
            self.log.write(state.step, record)

    def _images_per_second(self, step: int) -> float:
        last_step, last_time = self._last
        self._last = (step, time.perf_counter())
        return (step - last_step) * self.options.batch_size / (self._last[1] - last_time)

    def start_at(self, step: int) -> None:
        """Count speed from `step`, now."""
        self._last = (step, time.perf_counter())


class Checkpointing:
    """Hook: a checkpoint every `checkpoint_every` steps, written in the background, and one at the end."""

    def __init__(self, checkpoints: Checkpoints, options: TrainingOptions) -> None:
        self.checkpoints, self.options = checkpoints, options

    def __call__(self, state: TrainState) -> None:
        self.checkpoints.check()
        last = state.step == self.options.steps
        if state.step % self.options.checkpoint_every == 0 or last:
            self.checkpoints.save(state.step)
        if last:
            self.checkpoints.finish()


class WithAverage:
    """Hook: every `every` steps (0: never), hand the whole average `name` to `use` on rank 0; the others wait."""

    def __init__(self, every: int, engine: Engine, ema: PartitionedEMA, name: str, use: UseWeights | None) -> None:
        self.every, self.engine, self.ema, self.name, self.use = every, engine, ema, name, use

    def __call__(self, state: TrainState) -> None:
        if self.every and state.step % self.every == 0:
            self.now(state.step)

    def now(self, step: int) -> None:
        with self.ema.swapped_in(self.name):
            weights = self.engine.gathered_weights()
        if distributed.rank() == 0 and self.use is not None:
            self.use(step, weights)
        torch.distributed.barrier()

"""The training loop, and the hooks that run after a step."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from latentdebias import distributed
from latentdebias.data.batches import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.training.blocks import Where
from latentdebias.training.checkpoint import Checkpoints
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, Precision
from latentdebias.training.loss_meter import LossMeter
from latentdebias.training.lr_schedules import LRSchedule
from latentdebias.training.run_log import RunLog


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config; `batch_size` is global, `grad_clip` 0 does not clip."""

    steps: PositiveInt
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    seed: NonNegativeInt = 0
    precision: Precision = "bf16"
    activation_checkpointing: Where = "none"
    compile: Where = "none"
    grad_clip: NonNegativeFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 10_000
    keep_checkpoints: PositiveInt = 2
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
        lr_schedule: LRSchedule,
        options: TrainingOptions,
        state: TrainState,
        hooks: Sequence[Hook],
    ) -> None:
        self.engine, self.diffusion, self.ema, self.batches, self.meter = engine, diffusion, ema, batches, meter
        self.lr_schedule, self.options, self.state, self.hooks = lr_schedule, options, state, hooks

    def run(self) -> None:
        for batch in self.batches:
            t = self.diffusion.sample_timesteps(batch.u, batch.row, self.options.batch_size)
            losses = self.diffusion.loss(self.engine, batch.latents, batch.labels, t=t, eps=batch.eps)
            self.meter.add(losses, self.diffusion.schedule.to_unit(t))
            self.engine.backward(losses.mean())
            boundary = self.engine.is_gradient_accumulation_boundary()
            if boundary:
                self.engine.set_lr(self.lr_schedule.lr_share_at(self.state.step, self.options.steps))
            self.engine.step()
            if boundary:
                self.state.step += 1
                self.ema.update()
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
        options: TrainingOptions,
    ) -> None:
        self.log, self.meter, self.engine, self.options = log, meter, engine, options
        self._last = (0, time.perf_counter())

    def __call__(self, state: TrainState) -> None:
        if self.log is not None:
            self.log.advance()
        if state.step % self.options.log_every and state.step != self.options.steps:
            return
        loss, loss_by_t = self.meter.report()
        if not torch.isfinite(torch.tensor(loss)):
            raise UserError(
                f"The loss is {loss} at step {state.step}. Lower optimizer.lr, set training.grad_clip, or cap the "
                f"weighting with max_weight; a rerun resumes from the last checkpoint."
            )
        if self.log is not None:
            record = {
                "loss": loss,
                "lr": self.engine.lr(),
                "grad_norm": self.engine.grad_norm(),
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
    """Hook: a checkpoint every `checkpoint_every` steps and at the end."""

    def __init__(self, checkpoints: Checkpoints, options: TrainingOptions) -> None:
        self.checkpoints, self.options = checkpoints, options

    def __call__(self, state: TrainState) -> None:
        if state.step % self.options.checkpoint_every == 0 or state.step == self.options.steps:
            self.checkpoints.save(state.step)


class WithAverage:
    """Hook: every `every` steps (0: never), hand the whole EMA weights to `use` on rank 0, while the others wait."""

    def __init__(self, every: int, engine: Engine, ema: PartitionedEMA, use: UseWeights | None) -> None:
        self.every, self.engine, self.ema, self.use = every, engine, ema, use

    def __call__(self, state: TrainState) -> None:
        if self.every and state.step % self.every == 0:
            self.now(state.step)

    def now(self, step: int) -> None:
        with self.ema.swapped_in():
            weights = self.engine.gathered_weights()
        if distributed.rank() == 0 and self.use is not None:
            self.use(step, weights)
        torch.distributed.barrier()

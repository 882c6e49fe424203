"""The training loop, and the hooks that run after a step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from latentdebias import distributed
from latentdebias.data.batches import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.training.checkpoint import Checkpoints
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine, OptimizerOptions, Precision
from latentdebias.training.loss_meter import LossMeter


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config; `batch_size` is global, `grad_clip` 0 does not clip."""

    steps: PositiveInt
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    seed: NonNegativeInt = 0
    precision: Precision = "bf16"
    grad_clip: NonNegativeFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 10_000
    keep_checkpoints: PositiveInt = 2
    sample_every: NonNegativeInt = 0
    export_every: NonNegativeInt = 0
    peak_tflops: PositiveFloat | None = None
    wandb_project: str | None = None


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
                self.ema.update()
                for hook in self.hooks:
                    hook(self.state)
                self.meter.next_step()


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

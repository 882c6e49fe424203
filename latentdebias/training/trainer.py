"""The training loop, and the hooks that run after a step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from latentdebias import distributed
from latentdebias.backbones.blocks import Where
from latentdebias.backbones.spec import Precision
from latentdebias.batches.batch import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.registry import option
from latentdebias.training.checkpoints.checkpoint import Checkpoints
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine
from latentdebias.training.lr_schedules import LRSchedule
from latentdebias.training.monitor.loss_meter import LossMeter


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config."""

    steps: PositiveInt = option(400_000, "", on_resume="free")
    batch_size: PositiveInt = option(256, "global")
    micro_batch_size: PositiveInt | None = option(
        None, "a rank's share of one backward; null: the whole batch in one", on_resume="free"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = option(0, "")
    precision: Precision = option("bf16", "bf16 (autocast, fp32 weights) | fp32")
    activation_checkpointing: Where = option(
        "none", "none | blocks: each block's forward runs again in the backward, to save memory", on_resume="free"
    )
    compile: Where = option("none", "none | blocks: torch.compile, block by block", on_resume="free")
    grad_clip: NonNegativeFloat = option(1.0, "0: off")
    log_every: PositiveInt = option(100, "", on_resume="free")
    checkpoint_every: PositiveInt = option(10_000, "", on_resume="free")
    keep_checkpoints: PositiveInt = option(2, "the newest ones", on_resume="free")
    keep_every: NonNegativeInt = option(0, "and those of every so many steps; 0: none beside", on_resume="free")
    may_change: tuple[str, ...] = option(
        (), "settings that may differ from the checkpoint's, such as [optimizer.lr]", on_resume="free"
    )
    max_skipped: PositiveInt = option(
        20,
        "an update with a gradient that is not finite is skipped; end after so many in a row",
        on_resume="free",
    )
    sample_every: NonNegativeInt = option(0, "a grid in samples/ every so many steps; 0: never", on_resume="free")
    export_every: NonNegativeInt = option(
        0, "the model directory is always written at the end; 0: only there", on_resume="free"
    )
    peak_tflops: PositiveFloat | None = option(
        None,
        "a rank's peak, for model FLOP utilisation; null: of the data sheet, or measured",
        on_resume="free",
    )
    wandb_project: str | None = option(None, "log to Weights & Biases as well; needs the extra wandb", on_resume="free")
    stop_within: NonNegativeFloat = option(
        25.0, "seconds from a signal to the checkpoint, or the process ends without; 0: no limit", on_resume="free"
    )
    hang_timeout: NonNegativeFloat = option(
        1800.0, "seconds without a step after which the watchdog ends the process; 0: never", on_resume="free"
    )


@dataclass
class TrainState:
    """How far a run is: updates done, and what stopped it before its last one, if anything did."""

    step: int = 0
    stopped_by: str = ""


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
                self.ema.update(self.state.step)
                for hook in self.hooks:
                    hook(self.state)
                self.meter.next_step()
                if self.state.stopped_by:
                    break


class Checkpointing:
    """Hook: a checkpoint every `checkpoint_every` steps, written in the background, and one at the end or a stop."""

    def __init__(self, checkpoints: Checkpoints, options: TrainingOptions) -> None:
        self.checkpoints, self.options = checkpoints, options

    def __call__(self, state: TrainState) -> None:
        last = state.step == self.options.steps or bool(state.stopped_by)
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

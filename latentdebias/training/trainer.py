"""The training loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from latentdebias.backbones.blocks import Where
from latentdebias.backbones.spec import Precision
from latentdebias.batches.batch import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine
from latentdebias.training.lr_schedules import LRSchedule
from latentdebias.training.monitor.loss_meter import LossMeter


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config; `batch_size` is global, `grad_clip` 0 does not clip."""

    steps: PositiveInt
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "bf16"
    activation_checkpointing: Where = "none"
    compile: Where = "none"
    grad_clip: NonNegativeFloat = 1.0
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 10_000
    keep_checkpoints: PositiveInt = 2
    keep_every: NonNegativeInt = 0
    may_change: tuple[str, ...] = ()
    max_skipped: PositiveInt = 20
    sample_every: NonNegativeInt = 0
    export_every: NonNegativeInt = 0
    stop_within: NonNegativeFloat = 25.0
    hang_timeout: NonNegativeFloat = 1800.0
    peak_tflops: PositiveFloat | None = None
    wandb_project: str | None = None


@dataclass
class TrainState:
    """How far a run is: updates done, and what stopped it before its last one, if anything did."""

    step: int = 0
    stopped_by: str = ""


# Runs on every rank after every update.
Hook = Callable[[TrainState], None]


@dataclass(frozen=True)
class Trainer:
    """How a batch becomes an update: the loss, its gradient, the learning rate, the averages."""

    engine: Engine
    diffusion: Diffusion
    ema: PartitionedEMA
    lr_schedule: LRSchedule
    meter: LossMeter
    options: TrainingOptions

    def run(self, state: TrainState, batches: Iterable[Batch], hooks: Sequence[Hook]) -> None:
        """Train on `batches`, from `state.step` on; after every update the `hooks` run, and one may end the loop."""
        for batch in batches:
            t = self.diffusion.sample_timesteps(batch.u, batch.row, self.options.batch_size)
            losses = self.diffusion.loss(self.engine, batch.latents, batch.labels, t=t, eps=batch.eps)
            self.meter.add(losses, self.diffusion.schedule.to_unit(t))
            self.engine.backward(losses.mean())
            boundary = self.engine.is_gradient_accumulation_boundary()
            if boundary:
                self.engine.set_lr(self.lr_schedule.lr_share_at(state.step, self.options.steps))
            self.engine.step()
            if boundary:
                state.step += 1
                self.ema.update(state.step)
                for hook in hooks:
                    hook(state)
                self.meter.next_step()
                if state.stopped_by:
                    break

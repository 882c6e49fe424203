"""The training loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from latentdebias import distributed
from latentdebias.backbones.blocks import Where
from latentdebias.backbones.routing import routers
from latentdebias.batches.batch import Batch
from latentdebias.diffusion import Diffusion
from latentdebias.precision import Precision
from latentdebias.registry import option
from latentdebias.training.compiling import Attention, Compile
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import HANG_TIMEOUT, Engine
from latentdebias.training.loss_feedback import LossFeedback
from latentdebias.training.lr_schedules import LRSchedule
from latentdebias.training.monitor.loss_meter import LossMeter


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `training` section of a run config."""

    steps: PositiveInt = option(400_000, "", on_resume="free")
    batch_size: Annotated[int, Field(gt=0, le=2**24)] = option(256, "global")
    micro_batch_size: PositiveInt | None = option(
        None, "a rank's share of one backward; null: the whole batch in one", on_resume="free"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = option(0, "")
    precision: Precision = option("bf16", "bf16 (autocast, fp32 weights) | tf32 (fp32 on a CPU) | fp32 (in full)")
    deterministic: bool = option(
        False, "true: on a GPU too the same bits each time, which is slower (not measured)", on_resume="free"
    )
    activation_checkpointing: Where = option(
        "none", "none | blocks: each block's forward runs again in the backward, to save memory", on_resume="free"
    )
    compile: Compile = option(
        "auto", "none | blocks: torch.compile, block by block | auto: blocks where there is a GPU", on_resume="free"
    )
    attention: Attention = option(
        "auto", "auto: torch chooses the kernel | flash | cudnn | efficient | math", on_resume="free"
    )
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
    export_at: tuple[PositiveInt, ...] = option(
        (), "steps whose model directories are kept beside it, in models/step-N/", on_resume="free"
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
        HANG_TIMEOUT, "seconds without a step after which the watchdog ends the process; 0: never", on_resume="free"
    )


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
        history = self.diffusion.loss_history
        feedback = None if history is None else LossFeedback(history)
        routing = routers(self.engine.module)
        micro_batch = 0
        for batch in batches:
            seed_masks(self.options.seed, state.step, micro_batch)
            micro_batch += 1
            for router in routing:
                router.keys = (self.options.seed, state.step * self.options.batch_size + batch.row)
            t = self.diffusion.sample_timesteps(batch.u, batch.row, self.options.batch_size)
            terms = self.diffusion.loss_terms(self.engine, batch.latents, batch.labels, t=t, eps=batch.eps)
            self.meter.add(terms, self.diffusion.schedule.to_unit(t))
            losses = terms.total
            if feedback is not None:
                feedback.add(batch.row, t, losses)
                losses = losses * feedback.history.importance(t)
            self.engine.backward(losses.mean())
            boundary = self.engine.is_gradient_accumulation_boundary()
            if boundary:
                self.engine.set_lr(self.lr_schedule.lr_share_at(state.step, self.options.steps))
            self.engine.step()
            if boundary:
                state.step += 1
                micro_batch = 0
                if feedback is not None:
                    feedback.end_step()
                self.ema.update(state.step)
                for hook in hooks:
                    hook(state)
                self.meter.next_step()
                if state.stopped_by:
                    break


def seed_masks(seed: int, step: int, micro_batch: int) -> None:
    """Seed torch's generators for what the network itself draws, such as the masks of dropout.

    They are a function of (seed, step, micro-batch, rank), so that a resumed run draws what it would have drawn.
    """
    words = np.random.SeedSequence([seed, step, micro_batch, distributed.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))

"""Training loops that `latentdebias bench train` compares: this package's own, and those that people write."""

from latentdebias.commands.bench.loops.baselines import accelerate_diffusers, bare, plain
from latentdebias.commands.bench.loops.levers import LEVERS, Lever
from latentdebias.commands.bench.loops.trainer import loop
from latentdebias.commands.bench.loops.workload import Loop, RunSteps, Workload

__all__ = ["BASELINES", "LEVERS", "Lever", "Loop", "RunSteps", "Workload", "loop"]

BASELINES: dict[str, Loop] = {
    "bare": bare,
    "plain": plain,
    "plain_checkpointing": lambda workload: plain(workload, checkpointing=True),
    "accelerate_diffusers": accelerate_diffusers,
}

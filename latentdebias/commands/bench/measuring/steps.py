"""Step times, memory and communication of one loop, measured in a process of its own or in each of several ranks."""

from dataclasses import dataclass
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from latentdebias.commands.bench.loops import Loop, RunSteps, Workload
from latentdebias.commands.bench.measuring.timing import PeakMemory, elapsed
from latentdebias.training.engine import start_distributed, stop_distributed

WARM_UP = 2
# The names of gloo's work on a CPU and of NCCL's kernels on a GPU.
COLLECTIVES = ("gloo:", "ncclDevKernel", "ncclKernel")


@dataclass(frozen=True)
class Steps:
    """What steps cost on rank 0: seconds of each, bytes at the peak, and the share of a step spent in collectives."""

    seconds: list[float]
    peak_bytes: int
    communication: float


def measure_steps(loop: Loop, workload: Workload, segments: int, steps: int) -> Steps:
    """Build the loop, warm it up, and measure `segments` segments of so many steps."""
    start_distributed()
    device = workload.device
    memory = PeakMemory(device)
    with loop(workload) as run_steps:
        run_steps(WARM_UP)
        memory.reset()
        seconds = [elapsed(partial(run_steps, steps), device).wall / steps for _ in range(segments)]
        measured = Steps(seconds, memory.read(), _communication(run_steps, steps, device))
    stop_distributed()
    return measured


def _communication(run_steps: RunSteps, steps: int, device: torch.device) -> float:
    """The share of the time of `steps` steps during which a collective runs, waiting for other ranks included."""
    if torch.distributed.get_world_size() == 1:
        return 0.0
    kinds = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}
    with profile(activities=[kinds[device.type]]) as profiler:
        whole = elapsed(partial(run_steps, steps), device).wall
    spans = [event.time_range for event in profiler.events() or [] if event.name.startswith(COLLECTIVES)]
    return sum(span.end - span.start for span in spans) / 1e6 / whole

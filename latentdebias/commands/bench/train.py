"""`latentdebias bench train`: the whole training loop against the bare steps of the same model, in turns."""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from tqdm import tqdm

from latentdebias.commands.bench.shards import LATENT_SHAPE, NUM_CLASSES, write_random_shards
from latentdebias.config import RunConfig, load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.engine import start_distributed, stop_distributed
from latentdebias.training.trainer import TrainState

SAMPLES = 1024
WARM_UP = 1


@dataclass(frozen=True)
class Elapsed:
    """Seconds that one segment took, by the clock and in CPU time of this process."""

    wall: float
    cpu: float


def bench_train(options: argparse.Namespace) -> None:
    """Print the seconds of a step of the training loop and of a bare step, and their ratio, by clock and CPU time."""
    options.precision = options.precision or ("bf16" if torch.cuda.is_available() else "fp32")
    with tempfile.TemporaryDirectory() as folder:
        deque(write_random_shards(Path(folder, "shards"), SAMPLES), maxlen=0)
        config = load_config("base.yaml", _overrides(options, Path(folder)))
        prepared = prepare(config)
        start_distributed()
        run = Run(prepared)
        loop, bare = _time_in_turns(run, config, options)
        stop_distributed()
    print(f"{options.model}, batch {options.batch_size}, {options.precision}, {run.engine.device}")
    _report("wall clock", [each.wall for each in loop], [each.wall for each in bare], options.steps)
    # Other processes stretch the clock, not the CPU time of this one, which in turn leaves out what a GPU does.
    _report("CPU time", [each.cpu for each in loop], [each.cpu for each in bare], options.steps)


def _report(name: str, loop: list[float], bare: list[float], steps: int) -> None:
    ratios = [whole / alone for whole, alone in zip(loop, bare, strict=True)]
    print(
        f"{name:10s}  bare {fmean(bare) / steps:8.4f} s a step, loop {fmean(loop) / steps:8.4f}; ratio "
        f"{sum(loop) / sum(bare):.4f}, of {len(ratios)} pairs: median {median(ratios):.4f}, "
        f"{min(ratios):.4f} to {max(ratios):.4f}"
    )


def _overrides(options: argparse.Namespace, folder: Path) -> list[str]:
    workers = options.workers if options.workers is not None else 2 * torch.cuda.is_available()
    settings = {
        "run_dir": folder / "run",
        "data.shards": folder / "shards",
        "data.workers": workers,
        "model.name": options.model,
        "training.batch_size": options.batch_size,
        "training.precision": options.precision,
        # One step more than the benchmark runs: at its last step a run saves a checkpoint.
        "training.steps": WARM_UP + options.segments * options.steps + 1,
        "training.log_every": options.steps,
        "deepspeed.zero_optimization.stage": 0,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def _time_in_turns(run: Run, config: RunConfig, options: argparse.Namespace) -> tuple[list[Elapsed], list[Elapsed]]:
    last, bare_steps = config.training.steps, _bare(run, config)
    loop: list[Elapsed] = []
    bare: list[Elapsed] = []
    with run.training(TrainState(), last) as whole_steps:
        whole_steps(WARM_UP)
        bare_steps(WARM_UP)
        turns = [(whole_steps, loop), (bare_steps, bare)]
        for segment in tqdm(range(options.segments), desc="pairs", leave=False):
            # Loop and bare steps go first in turns, so that a machine that slows down or speeds up favours neither.
            for steps, seconds in turns if segment % 2 else reversed(turns):
                seconds.append(_time(steps, options.steps, run.engine.device))
    return loop, bare


def _time(run_steps: Callable[[int], None], steps: int, device: torch.device) -> Elapsed:
    _wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run_steps(steps)
    _wait_for(device)
    return Elapsed(time.perf_counter() - wall, time.process_time() - cpu)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bare(run: Run, config: RunConfig) -> Callable[[int], None]:
    """A function that runs a number of bare training steps: forward, backward, clipping and AdamW on one fixed batch.

    Its model has the architecture of the run's. There is no data loading, average, log, weighting or DeepSpeed.
    """
    channels, side, _ = LATENT_SHAPE
    device, size = run.engine.device, config.training.batch_size
    backbone = config.model.build(side, channels, NUM_CLASSES).to(device)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=device.type == "cuda")
    z = torch.randn(size, *LATENT_SHAPE, device=device)
    t = torch.rand(size, device=device) * 1000
    y = torch.arange(size, device=device) % NUM_CLASSES
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")

    def steps(count: int) -> None:
        for _ in range(count):
            with autocast:
                loss = (backbone(z, t, y) - z).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, config.training.grad_clip)
            adamw.step()
            adamw.zero_grad()

    return steps

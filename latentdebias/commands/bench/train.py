"""`latentdebias bench train`: the whole trainer beside bare steps, plain loops and single levers, in turns."""

import argparse
import gc
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch

from latentdebias.backbones.flops import forward_flops
from latentdebias.commands.bench.loops import BASELINES, LEVERS, Lever, Loop, RunSteps, Workload, loop
from latentdebias.commands.bench.loops.curves import TOLERANCE, farthest_loss
from latentdebias.commands.bench.loops.workload import usual_precision, written
from latentdebias.commands.bench.measuring.table import LeftOut, Table, check_json
from latentdebias.commands.bench.measuring.timing import Elapsed, in_turns
from latentdebias.errors import UserError, legal_choices
from latentdebias.training.engine import start_distributed, stop_distributed, training_device
from latentdebias.training.monitor.peak_flops import measured_peak

WARM_UP = 2
LOOPS: dict[str, Loop] = {"loop": loop, **BASELINES}


def bench_train(options: argparse.Namespace) -> None:
    """Report the seconds of a step of each loop, their ratios to the trainer's, and the trainer's utilisation."""
    check_json(options.json)
    precision = usual_precision(options.precision)
    workers = options.workers if options.workers is not None else 2 * torch.cuda.is_available()
    unknown = next((name for name in options.levers if name not in LEVERS), None)
    if unknown is not None:
        raise UserError(f"--levers {unknown!r} is not known. {legal_choices(unknown, LEVERS)}")
    loops = {name: LOOPS[name] for name in dict.fromkeys(["loop", *options.loops])}
    start_distributed()
    table = Table(f"{', '.join(options.model)}, batch {options.batch_size}, {precision}, {training_device()}")
    for model in options.model:
        # The compiler gives a block up that it has compiled for too many networks.
        torch.compiler.reset()
        name = f"{model} " if len(options.model) > 1 else ""
        with written(model, options.batch_size, precision, workers) as workload:
            with ExitStack() as stack:
                ways = opened(loops, workload, stack, table, name)
                _add_loops(table, name, timed(ways, options, workload), options.steps, workload)
            if options.curve:
                _add_curve(table, name, workload, options.curve)
            if options.levers:
                _add_levers(table, name, workload, options)
    table.notes.append(NOTE)
    stop_distributed()
    table.report(options.json)


NOTE = (
    "ratios: of the times of one round, median over the rounds; utilisation: FLOPs of products alone, 3 forwards a step"
)


def opened(
    loops: Mapping[str, Loop], workload: Workload, stack: ExitStack, table: Table, prefix: str = ""
) -> dict[str, RunSteps]:
    """Each loop, built and warmed up; what cannot run here is left out of the table, with the reason."""
    ways: dict[str, RunSteps] = {}
    for name, build in loops.items():
        try:
            with ExitStack() as own:
                run_steps = own.enter_context(build(workload))
                run_steps(WARM_UP)
                stack.push(own.pop_all())
        except (LeftOut, UserError, RuntimeError) as reason:
            if name == "loop":
                raise
            table.left_out[prefix + name] = str(reason).splitlines()[0]
        else:
            ways[name] = run_steps
        # What a loop that did not fit has allocated is free once its exception is gone.
        gc.collect()
        torch.cuda.empty_cache()
    return ways


def timed(ways: Mapping[str, RunSteps], options: argparse.Namespace, workload: Workload) -> dict[str, list[Elapsed]]:
    """The times of each way over a segment of `options.steps` steps, in turns."""
    segments = {name: partial(run_steps, options.steps) for name, run_steps in ways.items()}
    return in_turns(segments, options.segments, workload.device)


def _add_loops(table: Table, prefix: str, times: dict[str, list[Elapsed]], steps: int, workload: Workload) -> None:
    for name, values in times.items():
        table.add(prefix + name, [each.wall / steps for each in values], "s/step")
    for name in list(times)[1:]:
        _add_ratio(table, f"{prefix}loop / {name}", times["loop"], times[name], workload.device)
    rates = [workload.batch_size * steps / each.wall for each in times["loop"]]
    table.add(f"{prefix}loop images", rates, "images/s")
    flops = forward_flops(workload.network().spec, workload.latent_shape, workload.network().num_classes)
    if flops is not None:
        peak = measured_peak(workload.device, workload.precision)
        shares = [100 * rate * flops.training() / peak for rate in rates]
        table.add(f"{prefix}loop utilisation", shares, f"% of {peak / 1e12:.4g} TFLOP/s, measured")


def _add_ratio(table: Table, name: str, over: list[Elapsed], under: list[Elapsed], device: torch.device) -> None:
    table.add_ratio(name, [each.wall for each in over], [each.wall for each in under])
    if device.type == "cpu":
        # Other processes stretch the clock, not the CPU time of this one.
        table.add_ratio(f"{name}, CPU time", [each.cpu for each in over], [each.cpu for each in under])


def _add_curve(table: Table, prefix: str, workload: Workload, steps: int) -> None:
    """Add how far the trainer's losses are at most from those of a plain loop over the same batches."""
    farthest, tolerance = farthest_loss(workload, Lever(), steps), TOLERANCE[workload.precision]
    table.add(f"{prefix}farthest loss", [100 * farthest], f"% of the plain loop's, in {steps} steps")
    verdict = "within" if farthest <= tolerance else "BEYOND"
    table.notes.append(f"{prefix}losses: {verdict} the tolerance of {tolerance:.2%} in {workload.precision}")


def _add_levers(table: Table, prefix: str, workload: Workload, options: argparse.Namespace) -> None:
    """Add a row for each lever, whose loop is built for it alone and runs in turns with the trainer as it is."""
    with ExitStack() as stack:
        trainer = opened({"loop": loop}, workload, stack, table)
        for name in options.levers:
            with ExitStack() as own:
                lever = opened({name: partial(loop, lever=LEVERS[name])}, workload, own, table, prefix)
                if lever:
                    times = timed({**trainer, **lever}, options, workload)
                    table.add(prefix + name, [each.wall / options.steps for each in times[name]], "s/step")
                    _add_ratio(table, f"{prefix}{name} / loop", times[name], times["loop"], workload.device)
            gc.collect()

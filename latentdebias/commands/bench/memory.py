"""`latentdebias bench memory`: the peak of a training step by ZeRO stage, beside what the planner counts."""

import argparse
from functools import partial

from latentdebias.commands.bench.loops import BASELINES, Lever, Workload, loop
from latentdebias.commands.bench.loops.workload import usual_precision, written
from latentdebias.commands.bench.measuring.own_process import in_processes
from latentdebias.commands.bench.measuring.steps import measure_steps
from latentdebias.commands.bench.measuring.table import LeftOut, Table, check_json
from latentdebias.plan import plan_run


def bench_memory(options: argparse.Namespace) -> None:
    """Report the peak of each ZeRO stage, each in a process of its own, the planner's count and their ratio."""
    check_json(options.json)
    precision = usual_precision(options.precision)
    table = Table(f"{options.model}, batch {options.batch_size}, {precision}, one process")
    workers = options.workers or 0
    with written(options.model, options.batch_size, precision, workers) as workload:
        for stage in options.stages:
            lever = Lever((f"deepspeed.zero_optimization.stage={stage}",))
            measured = in_processes(1, measure_steps, partial(loop, lever=lever), workload, 1, 1).peak_bytes
            planned = planned_bytes(workload, lever, stage)
            table.add(f"stage {stage} measured", [measured / 1e9], "GB")
            table.add(f"stage {stage} planned", [planned / 1e9], "GB")
            table.add(f"stage {stage} measured / planned", [measured / planned], "x")
        for name in options.loops:
            try:
                peak = in_processes(1, measure_steps, BASELINES[name], workload, 1, 1).peak_bytes
            except LeftOut as reason:
                table.left_out[name] = str(reason)
            else:
                table.add(f"{name} measured", [peak / 1e9], "GB")
    table.notes.append("on a CPU: resident memory beyond that of the process before the model was built")
    table.report(options.json)


def planned_bytes(workload: Workload, lever: Lever, stage: int) -> int:
    """The planner's count of the peak of one rank of one at a ZeRO stage."""
    plan = plan_run(workload.config("planned", lever.changes), 1)
    assert plan.activations is not None, "the networks of the benchmark read no values of their tensors"
    return plan.states[stage].peak(plan.activations.kept)

"""`latentdebias bench growth`: a step as parameters, tokens, batch and ranks grow, and on 8 to 512 GPUs."""

import argparse
from statistics import median

import torch

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.flops import forward_flops
from latentdebias.backbones.sized import SizedBackbone
from latentdebias.commands.bench.loops import loop
from latentdebias.commands.bench.loops.workload import usual_precision, written
from latentdebias.commands.bench.measuring.own_process import in_processes
from latentdebias.commands.bench.measuring.steps import Steps, measure_steps
from latentdebias.commands.bench.measuring.table import Table, check_json
from latentdebias.commands.bench.shards import LATENT_SHAPE, NUM_CLASSES
from latentdebias.errors import UserError, legal_choices
from latentdebias.training.monitor.peak_flops import GPUS, peak_of

GPUS_OF_A_MACHINE = 8
PREDICTED = {8: 256, 64: 1024, 512: 4096}
"""Global batches for which a step is predicted, by the number of GPUs."""


def bench_growth(options: argparse.Namespace) -> None:
    """Report the step and the memory of each size, every one in processes of its own, and the predictions."""
    check_json(options.json)
    if options.gpu not in GPUS:
        raise UserError(f"--gpu {options.gpu!r} is not in the table. {legal_choices(options.gpu, GPUS)}")
    table = Table(f"the trainer at ZeRO stage 0, {options.batch_size} images a rank where the batch does not grow")
    base = options.models[0] if options.models else "dit_s_patch4"
    for model in options.models:
        _add(table, f"model {model}", _measure(options, model))
    for side in options.sides:
        _add(table, f"latents of side {side}", _measure(options, base, side=side))
    for batch in options.batches:
        _add(table, f"batch {batch}", _measure(options, base, batch=batch))
    alone: float | None = None
    for ranks in options.ranks:
        steps = _measure(options, base, batch=options.batch_size * ranks, ranks=ranks)
        name = f"ranks {ranks}"
        _add(table, name, steps)
        table.add(f"{name} communication", [100 * steps.communication], "% of the step, waiting included")
        alone = alone or median(steps.seconds)
        table.add(f"{name} efficiency", [alone / each for each in steps.seconds], f"x of {options.ranks[0]} ranks")
    _add_predictions(table, options)
    if not torch.cuda.is_available():
        table.notes.append(
            "ranks: one thread each, on the cores named above; more ranks than cores wait for one another"
        )
    table.report(options.json)


def _measure(
    options: argparse.Namespace, model: str, batch: int | None = None, side: int = 32, ranks: int = 1
) -> Steps:
    precision = usual_precision(options.precision)
    with written(model, batch or options.batch_size, precision, options.workers or 0, side) as workload:
        return in_processes(ranks, measure_steps, loop, workload, options.segments, options.steps)


def _add(table: Table, name: str, steps: Steps) -> None:
    table.add(name, steps.seconds, "s/step")
    table.add(f"{name} memory", [steps.peak_bytes / 1e9], "GB a rank")


def _add_predictions(table: Table, options: argparse.Namespace) -> None:
    """Rows of arithmetic for DiT-XL/2: operations at the stated utilisation, then a ring all-reduce of fp32 gradients.

    Nothing overlaps, which is the worst case: a ring of N ranks sends 2 (N - 1) / N of the gradients' bytes each, at
    the slowest bandwidth on its way.
    """
    inside, between = options.bandwidth
    peak = peak_of(GPUS[options.gpu], "bf16")
    network = SizedBackbone(BACKBONES.build("dit_xl_patch2"), LATENT_SHAPE, NUM_CLASSES)
    parameters = sum(parameter.numel() for parameter in network.on_meta().parameters())
    flops = forward_flops(network.spec, network.latent_shape, network.num_classes)
    assert flops is not None, "a DiT's operations can be counted"
    for gpus, batch in PREDICTED.items():
        compute = batch / gpus * flops.training() / (options.utilisation * peak)
        bandwidth = 1e9 * (inside if gpus <= GPUS_OF_A_MACHINE else between)
        send = 2 * (gpus - 1) / gpus * 4 * parameters / bandwidth
        table.add(f"predicted, {gpus} GPUs", [compute + send], f"s/step, batch {batch}")
        table.add(f"predicted, {gpus} GPUs communication", [100 * send / (compute + send)], "% of the step")
    table.notes.append(
        f"predicted: arithmetic for DiT-XL/2 in bf16 on {options.gpu} at {options.utilisation:.0%} of "
        f"{peak / 1e12:g} TFLOP/s, {inside:g} GB/s a GPU inside a machine of {GPUS_OF_A_MACHINE}, {between:g} between"
    )

"""`latentdebias plan`: what a run will cost, as a table."""

import argparse

from latentdebias.commands.terminal import table
from latentdebias.config import RunConfig, load_config
from latentdebias.errors import UserError, legal_choices
from latentdebias.plan import DataSize, Plan, plan_run, training_days
from latentdebias.registry import load_plugins
from latentdebias.training.monitor.peak_flops import GPUS, peak_of


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the work, the size and the memory of the run that the arguments describe."""
    if arguments.gpu not in GPUS:
        raise UserError(f"--gpu {arguments.gpu!r} is not in the table. {legal_choices(arguments.gpu, GPUS)}")
    config = load_config(arguments.config, arguments.overrides)
    load_plugins(config.imports)
    plan = plan_run(config, arguments.gpus)
    notes = [f"note: {note}" for note in plan.notes]
    print("\n".join([*_work(plan, config, arguments), "", *_memory(plan, config), *notes]))


def _work(plan: Plan, config: RunConfig, arguments: argparse.Namespace) -> list[str]:
    network, training = plan.network, config.training
    steps = arguments.steps or training.steps
    lines = [
        f"{'model':14s}{config.model_name}: {plan.parameters / 1e6:.1f}M parameters, latents "
        f"{tuple(network.latent_shape)}, {network.num_classes} classes",
        f"{'shards':14s}{_shards(plan.data, arguments.images)}",
        f"{'':14s}{plan.data.bytes_per_image:,} bytes an image: {plan.data.bytes_from}",
    ]
    if plan.flops is None:
        return [*lines, f"{'FLOPs':14s}not counted: this backbone's forward reads its numbers"]
    peak = peak_of(GPUS[arguments.gpu], training.precision)
    images = steps * training.batch_size
    days = training_days(plan.flops.training(), images, arguments.gpus * peak * arguments.utilisation)
    return [
        *lines,
        f"{'an image':14s}{plan.flops.total / 1e9:.1f} GFLOP forward, {plan.flops.training() / 1e9:.1f} to train; "
        f"{plan.flops.training('blocks') / 1e9:.1f} with checkpointed blocks",
        f"{'time':14s}{days:.2f} days for {steps:,} steps of {training.batch_size}, {arguments.gpus} x "
        f"{arguments.gpu} at {arguments.utilisation:.0%} (assumed) of {peak / 1e12:g} TFLOP/s ({training.precision})",
    ]


def _shards(data: DataSize, given: int | None) -> str:
    images, images_from = (data.images, data.images_from) if given is None else (given, "--images")
    if images is None:
        return "number of images not stated: --images N"
    return f"{data.bytes_per_image * images / 1e9:,.2f} GB for {images:,} images ({images_from})"


def _memory(plan: Plan, config: RunConfig) -> list[str]:
    kept = None if plan.activations is None else plan.activations.kept
    checkpointed = None if plan.activations is None else plan.activations.kept_checkpointed
    model = ["weights", "gradients", "optimizer", "buffers"]
    columns = [*model, "activations", "update", "total", "checkpointed", "host", "DeepSpeed's"]
    lines = [
        f"GB on each of {plan.gpus} GPUs, micro-batch {plan.micro_batch_size}, {config.training.precision}",
    ]
    rows = [["", *columns]]
    for states in plan.states:
        totals = [None if each is None else states.peak(each) for each in (kept, checkpointed)]
        numbers = [
            *(getattr(states, name) for name in model),
            kept,
            states.update,
            *totals,
            states.host,
            states.deepspeed,
        ]
        rows.append([f"stage {states.stage}", *map(_gigabytes, numbers)])
    return [
        *lines,
        table(rows),
        "",
        "optimizer: fp32 masters (from stage 1), its state, the averages; offload_optimizer moves them to the host.",
        "buffers: buckets of reduce_bucket_size numbers, one a dtype, two with overlap_comm at stages 1 and 2; and at",
        "  stage 3 gathered weights up to stage3_max_live_parameters.",
        "activations: bytes kept for the backward, counted on fake tensors with the CPU's autocast rules; kernels'",
        "  temporaries, CUDA's own memory and fragmentation come on top.",
        "update: what takes the place of gradients, buffers and activations once the backward is done.",
        "total: weights, optimizer, and the larger of update and those three.",
        "checkpointed: the total where the blocks' activations are computed again in the backward.",
        "host: memory of the CPU: a copy of the GPU's share of a checkpoint, and the whole fp32 weights, built there.",
        *(["-: not counted, for this backbone's forward reads its numbers."] if kept is None else []),
        "DeepSpeed's: its estimator's model states; it assumes bf16 weights and gradients, no average and no buffers.",
    ]


def _gigabytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e9:.2f}"

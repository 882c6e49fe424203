"""`latentdebias plan`: what a run will cost, as a table."""

import argparse

from latentdebias.config import RunConfig, load_config
from latentdebias.errors import UserError, legal_choices
from latentdebias.plan import Plan, plan_run, training_days
from latentdebias.registry import load_plugins
from latentdebias.training.monitor.peak_flops import GPUS, peak_of


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the work, the size and the memory of the run that the arguments describe."""
    if arguments.gpu not in GPUS:
        raise UserError(f"--gpu {arguments.gpu!r} is not in the table. {legal_choices(arguments.gpu, GPUS)}")
    config = load_config(arguments.config, arguments.overrides)
    load_plugins(config.imports)
    plan = plan_run(config, arguments.gpus)
    print("\n".join([*_work(plan, config, arguments), "", *_memory(plan, config)]))


def _work(plan: Plan, config: RunConfig, arguments: argparse.Namespace) -> list[str]:
    shapes, training = plan.shapes, config.training
    steps = arguments.steps or training.steps
    lines = [
        f"{'model':14s}{config.model['name']}: {plan.parameters / 1e6:.1f}M parameters, latents "
        f"{tuple(shapes.latent_shape)}, {shapes.num_classes} classes",
        f"{'shards':14s}{plan.bytes_per_sample * arguments.images / 1e9:.1f} GB for {arguments.images:,} images"
        f"{', mirrored views included' if config.data.flip else ''}",
    ]
    if plan.flops is None:
        return [*lines, f"{'FLOPs':14s}not counted: this backbone does not run on the meta device"]
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


def _memory(plan: Plan, config: RunConfig) -> list[str]:
    kept, checkpointed = plan.activations.kept, plan.activations.kept_checkpointed
    columns = ["weights", "gradients", "optimizer", "buffers", "activations", "total", "checkpointed", "DeepSpeed's"]
    lines = [
        f"GB on each of {plan.gpus} GPUs, micro-batch {plan.micro_batch_size}, {config.training.precision}",
        " " * 8 + "".join(f"{name:>14s}" for name in columns),
    ]
    for states in plan.states:
        numbers = [states.weights, states.gradients, states.optimizer, states.buffers, kept]
        numbers += [states.total + kept, states.total + checkpointed]
        estimate = "-" if states.deepspeed is None else f"{states.deepspeed / 1e9:.2f}"
        lines.append(f"stage {states.stage:<2d}{''.join(f'{n / 1e9:14.2f}' for n in numbers)}{estimate:>14s}")
    return [
        *lines,
        "",
        "optimizer: fp32 masters (from stage 1), Adam's moments, the averages; offload_optimizer moves it to the CPU.",
        "buffers: reduce_bucket_size numbers (stages 1, 2), or gathered weights up to stage3_max_live_parameters.",
        "activations: bytes kept for the backward, counted on fake tensors with the CPU's autocast rules; kernels'",
        "  temporaries, CUDA's own memory and fragmentation come on top.",
        "checkpointed: the total where the blocks' activations are computed again in the backward.",
        "DeepSpeed's: its estimator's model states; it assumes bf16 weights and gradients, no average and no buffers.",
    ]

"""`latentdebias bench`: what this machine does with the project's parts, beside code written without them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from latentdebias.cli.argument_types import not_negative, positive
from latentdebias.errors import command, run_tool

VAE = "hub id, folder, or 'random-sd': Stable Diffusion's network with random weights, which times alike"
BASELINES = ("bare", "plain", "plain_checkpointing", "accelerate_diffusers")
PRECISIONS = ("fp32", "tf32", "bf16")


def parser() -> argparse.ArgumentParser:
    """The options of each benchmark."""
    parser = argparse.ArgumentParser(prog=command("bench"), description="Measure what this machine does.")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="COMMAND")
    for name, (what, add_arguments) in BENCHES.items():
        each = benches.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        add_arguments(each)
        if name != "gpu-suite":
            each.add_argument("--json", metavar="FILE", help="write the table there, too, as JSON")
    return parser


def main(words: Sequence[str]) -> None:
    """Run the benchmark that the words name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.bench import BENCHES as RUN

    RUN[arguments.bench](arguments)


def run_in_process(words: Sequence[str]) -> None:
    """Run the benchmark that the words name in a process of its own, whose command line they become."""
    from latentdebias.distributed import LAUNCHER_VARIABLES

    # Those of a process group that the parent has made, whose port is taken.
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    sys.argv[:] = ["latentdebias", "bench", *words]
    main(words)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    num = "samples (about 18 KB each, written three times); default 20000"
    parser.add_argument("--num", type=positive, default=20_000, help=num)
    _add_rounds(parser)
    intake = "images/s that a model takes in, to compare with; default: DiT-S/2's at half of an H200's 790 TFLOP/s"
    parser.add_argument("--intake", type=positive, help=intake)


def _add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", default="random-sd", help=VAE)
    parser.add_argument("--resolution", type=positive, default=256)
    parser.add_argument("--images", metavar="SOURCE", help="a folder, tar or list of images; default: --num of noise")
    parser.add_argument("--num", type=positive, default=64, help="images of noise, JPEG of 500x375; default 64")
    parser.add_argument("--workers", type=not_negative, help="processes that decode; default: up to 4")
    parser.add_argument("--device", help="default: a GPU, or cpu")
    _add_rounds(parser)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    model = "names, or YAML mappings as under model: of a config; default dit_s_patch2"
    parser.add_argument("--model", nargs="+", default=["dit_s_patch2"], help=model)
    parser.add_argument("--batch-size", type=positive, default=16)
    loops = f"what runs in turns with the trainer: {' '.join(BASELINES)}; default bare plain"
    parser.add_argument("--loops", nargs="*", choices=BASELINES, default=["bare", "plain"], metavar="LOOP", help=loops)
    levers = "changes of the trainer to measure alone, such as compile_blocks; a wrong name is told the others"
    parser.add_argument("--levers", nargs="*", default=[], metavar="LEVER", help=levers)
    curve = "compare the losses of so many steps with those of a plain loop over the same batches"
    parser.add_argument("--curve", type=positive, metavar="STEPS", help=curve)
    parser.add_argument("--segments", type=positive, default=10, help="rounds of one segment each; default 10")
    parser.add_argument("--steps", type=positive, default=2, help="steps a segment; default 2")
    _add_training(parser)


def _add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    backbone = "with random weights, which time alike; default dit_s_patch2"
    parser.add_argument("--backbone", default="dit_s_patch2", help=backbone)
    parser.add_argument("--vae", default="random-sd", help=VAE)
    parser.add_argument("--latent-size", type=positive, default=32, help="side of the latents; default 32")
    parser.add_argument("--num", type=positive, default=8, help="images; default 8")
    parser.add_argument("--batch-size", type=positive, default=4)
    parser.add_argument("--sampler", choices=("ddim", "heun"), default="ddim", help="default ddim")
    parser.add_argument("--steps", type=positive, default=10, help="of the sampler; default 10")
    interval = "also guided only between these positions on the schedule: fewer passes, other images"
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=interval)
    _add_rounds(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--compile", action="store_true", help="time the compiled backbone, too")
    parser.add_argument("--device", help="default: a GPU, or cpu")


def _add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="dit_s_patch2", help="default dit_s_patch2")
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--stages", type=int, nargs="+", choices=range(4), default=[0, 1, 2, 3], help="default all")
    loops = f"also the peak of: {' '.join(BASELINES)}; default plain"
    parser.add_argument("--loops", nargs="*", choices=BASELINES, default=["plain"], metavar="LOOP", help=loops)
    _add_training(parser)


def _add_start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="dit_s_patch2", help="default dit_s_patch2")
    parser.add_argument("--batch-size", type=positive, default=16)
    _add_rounds(parser)
    _add_training(parser)


def _add_growth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=["dit_s_patch4", "dit_b_patch4"], help="as parameters grow")
    parser.add_argument("--sides", type=positive, nargs="*", default=[32, 64], help="of latents, as tokens grow")
    parser.add_argument("--batches", type=positive, nargs="*", default=[4, 8, 16], help="as the batch grows")
    parser.add_argument(
        "--ranks", type=positive, nargs="*", default=[1, 2, 4, 8], help="with the batch, one thread each"
    )
    parser.add_argument("--batch-size", type=positive, default=4, help="a rank's, where it does not grow; default 4")
    parser.add_argument("--segments", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=1, help="steps a segment")
    parser.add_argument("--gpu", default="h100", help="of the predictions; default h100")
    parser.add_argument("--utilisation", type=float, default=0.4, help="of the predictions; default 0.4")
    bandwidth = "GB/s each way of a GPU inside a machine of 8 and between machines; default 450 50"
    parser.add_argument("--bandwidth", type=float, nargs=2, default=[450.0, 50.0], metavar="GB", help=bandwidth)
    _add_training(parser)


def _add_suite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of a JSON a part; parts done are skipped")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: a dry run on any machine")
    parser.add_argument("--seconds", type=positive, default=540, help="no part begins or runs on after so many")
    parser.add_argument("--parts", nargs="*", metavar="PART", help="only these")
    parser.add_argument("--images", metavar="SOURCE", help="photos for encode; default: smooth noise")
    parser.set_defaults(run=run_in_process)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 on a CPU")
    workers = "processes that read ahead; default: none on a CPU, 2 for a GPU"
    parser.add_argument("--workers", type=not_negative, help=workers)


def _add_rounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=positive, default=3, help="each way is timed so often, in turns; default 3")


BENCHES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "data": ("latent shards, plain webdataset, .npy folders and safetensors files, samples/s", _add_data_arguments),
    "encode": ("the encoding job against the bare autoencoder, images/s", _add_encode_arguments),
    "train": ("the trainer beside bare steps, the loops people write and single levers", _add_train_arguments),
    "sample": ("guided sampling against the plain loop, images/s", _add_sample_arguments),
    "memory": ("the most memory a step takes by ZeRO stage, beside what the planner counts", _add_memory_arguments),
    "start": ("seconds from the command to the first step, and what they are spent on", _add_start_arguments),
    "growth": (
        "a step as parameters, tokens, batch and ranks grow; predictions for 8, 64, 512 GPUs",
        _add_growth_arguments,
    ),
    "gpu-suite": ("every measurement that wants a GPU in one call of at most 9 minutes", _add_suite_arguments),
}


if __name__ == "__main__":
    run_tool(main)

"""`latentdebias bench`: rates of the project's parts on this machine."""

import argparse
from collections.abc import Callable, Sequence

from latentdebias.cli.argument_types import positive
from latentdebias.errors import command, run_tool

VAE = "hub id, folder, or 'random-sd': Stable Diffusion's network with random weights, which times alike"


def parser() -> argparse.ArgumentParser:
    """The options of each benchmark."""
    parser = argparse.ArgumentParser(prog=command("bench"), description="Measure rates on this machine.")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="COMMAND")
    for name, (what, add_arguments) in BENCHES.items():
        add_arguments(benches.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}."))
    return parser


def main(words: Sequence[str]) -> None:
    """Run the benchmark that the words name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.bench import BENCHES as RUN

    RUN[arguments.bench](arguments)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    num = "samples (about 18 KB each, written three times); default 20000"
    parser.add_argument("--num", type=positive, default=20_000, help=num)


def _add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", default="random-sd", help=VAE)
    parser.add_argument("--resolution", type=positive, default=256)
    parser.add_argument("--num", type=positive, default=64, help="images, JPEG of 500x375; default 64")
    parser.add_argument("--workers", type=positive)
    parser.add_argument("--device", help="default: a GPU, or cpu")


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="dit_s_patch2", help="default dit_s_patch2")
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--segments", type=positive, default=10, help="pairs of segments, loop and bare in turns")
    parser.add_argument("--steps", type=positive, default=2, help="steps a segment; the loop logs at the end of each")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="default: bf16 on a GPU, fp32 on a CPU")
    workers = "processes that read ahead; default: none on a CPU, 2 for a GPU"
    parser.add_argument("--workers", type=positive, help=workers)


def _add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    backbone = "with random weights, which time alike; default dit_s_patch2"
    parser.add_argument("--backbone", default="dit_s_patch2", help=backbone)
    parser.add_argument("--vae", default="random-sd", help=VAE)
    parser.add_argument("--latent-size", type=positive, default=32, help="side of the latents; default 32")
    parser.add_argument("--num", type=positive, default=8, help="images; default 8")
    parser.add_argument("--batch-size", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=10, help="of DDIM; default 10")
    parser.add_argument("--rounds", type=positive, default=3, help="each way is timed so often, in turn; default 3")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="time the compiled backbone, too")
    parser.add_argument("--device", help="default: a GPU, or cpu")


BENCHES: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "data": ("latent shards, plain webdataset, .npy folders and safetensors files, samples/s", _add_data_arguments),
    "encode": ("the encoding job against the bare autoencoder, images/s", _add_encode_arguments),
    "train": ("the training loop against the bare steps of the same model", _add_train_arguments),
    "sample": ("guided sampling against the plain loop, images/s", _add_sample_arguments),
}


if __name__ == "__main__":
    run_tool(main)

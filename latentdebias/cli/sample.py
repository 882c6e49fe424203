"""`latentdebias sample`: draw images of a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latentdebias.cli.argument_types import names, positive
from latentdebias.cli.sampling_arguments import add_sampling_arguments
from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias sample`."""
    parser = argparse.ArgumentParser(
        prog=command("sample"),
        description="Draw images of a model. The same command again resumes; under torchrun, deepspeed or srun the "
        "processes share the work, and draw the same images.",
        epilog="torchrun --nproc-per-node 8 -m latentdebias.cli.sample --model DIR --num-images 50000 --format npz "
        "--out DIR",
    )
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets grid.png and images/CLASS/N.png")
    classes = "class names or numbers, a name winning over the same number; default all"
    parser.add_argument("--classes", metavar="3,7", help=classes)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--per-class", type=positive, default=8, metavar="N", help="images of each class; default 8")
    # --num-images is for use under torchrun and deepspeed, which take --num for a short form of their own options.
    num = "so many images over the classes, see --labels"
    amount.add_argument("--num", "--num-images", type=positive, metavar="N", help=num)
    labels = "how --num is spread: even, the classes in turn, or random, each image's class drawn from the seed"
    parser.add_argument("--labels", choices=("even", "random"), default="even", help=labels)
    formats = "one or several of png (images/), webdataset (webdataset/*.tar) and npz (samples.npz, as ADM's evaluator)"
    parser.add_argument("--format", type=_sorted_names, default=["png"], metavar="png,npz", help=formats)
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    parser.add_argument("--replace", action="store_true", help="draw anew over the set that is in the folder")
    strip = "also write trajectory.png: the first images' estimates of x0 at N of the steps, 8 by default"
    parser.add_argument("--trajectory", type=positive, nargs="?", default=0, const=8, metavar="N", help=strip)
    add_sampling_arguments(parser)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.sample import draw_sample_set

    draw_sample_set(arguments)


def _sorted_names(text: str) -> list[str]:
    return sorted(set(names(text)))


if __name__ == "__main__":
    run_tool(main)

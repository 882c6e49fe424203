"""`latentdebias plan`: what a run will cost."""

import argparse
from collections.abc import Sequence

from latentdebias.cli.argument_types import positive, share
from latentdebias.cli.train import add_config_arguments
from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias plan`."""
    parser = argparse.ArgumentParser(
        prog=command("plan"), description="What a run will cost: parameters, FLOPs, days, disk and memory."
    )
    add_config_arguments(parser)
    parser.add_argument("--gpus", type=positive, required=True, metavar="N", help="of all machines together")
    gpus = (
        "a10, a100, b200, h100, h100-nvl, h100-pcie, h200, h200-nvl, l4, l40s, mi250x, mi300x, rtx3090, rtx4090, "
        "rtx5090, v100, v100-pcie; default h100"
    )
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=gpus)
    utilisation = "share of the peak that is reached, above 0 and up to 1; assumed, default 0.4"
    parser.add_argument("--utilisation", type=share, default=0.4, metavar="SHARE", help=utilisation)
    parser.add_argument("--steps", type=positive, metavar="N", help="default: training.steps")
    parser.add_argument("--images", type=positive, metavar="N", help="default: of the set, or data.num_images")
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.plan import print_plan

    print_plan(arguments)


if __name__ == "__main__":
    run_tool(main)

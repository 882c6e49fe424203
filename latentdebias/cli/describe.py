"""`latentdebias describe`: what a run optimises."""

import argparse
from collections.abc import Sequence

from latentdebias.cli.train import add_config_arguments
from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias describe`."""
    parser = argparse.ArgumentParser(
        prog=command("describe"),
        description="What the run of a config optimises: weights in every space, effective weight, nearest recipe.",
    )
    add_config_arguments(parser)
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.describe import print_description

    print_description(arguments)


if __name__ == "__main__":
    run_tool(main)

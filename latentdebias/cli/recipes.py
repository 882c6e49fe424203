"""`latentdebias recipes`: the published objectives that ship as configs."""

import argparse
from collections.abc import Sequence

from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias recipes`."""
    return argparse.ArgumentParser(
        prog=command("recipes"),
        description="Published training objectives that ship as configs: configs/recipes/NAME.yaml.",
    )


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    parser().parse_args(words)
    from latentdebias.commands.describe import print_recipes

    print_recipes()


if __name__ == "__main__":
    run_tool(main)

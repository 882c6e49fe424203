"""`latentdebias demo`: the whole job on the handwritten digits, offline."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias demo`."""
    parser = argparse.ArgumentParser(
        prog=command("demo"), description="Encode, train, sample and evaluate the handwritten digits, offline."
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where to write; default demo")
    config = "a config for the digits; default digits_debias.yaml"
    parser.add_argument("--config", default="digits_debias.yaml", metavar="NAME_OR_PATH", help=config)
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.demo import demo

    demo(arguments.out, arguments.config)


if __name__ == "__main__":
    run_tool(main)

"""`latentdebias study`: a grid of runs under equal settings, trained, scored and reported."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latentdebias.cli import listing
from latentdebias.cli.argument_types import positive
from latentdebias.errors import UserError, command, legal_choices, run_tool

COMMANDS = {
    "run": "train and score every cell, and write the report; the same command again resumes",
    "report": "write the report of what is scored so far",
    "score": "score one cell that is trained; `run` does it for every cell",
}


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias study` itself."""
    return argparse.ArgumentParser(
        prog=command("study"),
        usage="%(prog)s COMMAND STUDY.yaml ...",
        description="Train a grid of runs under equal settings, score them and report. Each command says more with "
        "--help.",
        epilog=listing(COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def command_parser(name: str) -> argparse.ArgumentParser:
    """The options of one of the commands."""
    parser = argparse.ArgumentParser(prog=f"{command('study')} {name}", description=f"{COMMANDS[name]}.")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="such as studies/digits.yaml")
    if name == "run":
        workers = "cells side by side, each on one thread unless OMP_NUM_THREADS says more; default 1"
        parser.add_argument("--workers", type=positive, default=1, metavar="N", help=workers)
    elif name == "report":
        out = "where report.html, report.md and scores.csv go; default: the folder of the study"
        parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    else:
        parser.add_argument("--cell", required=True, metavar="NAME", help="such as debias/seed-0")
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command that the first word names."""
    if not words or words[0].startswith("-"):
        parser().parse_args(words or ["--help"])
        return
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"Unknown command {name!r}. {legal_choices(name, COMMANDS)}")
    arguments = command_parser(name).parse_args(words[1:])
    from latentdebias.commands import study

    {"run": study.run, "report": study.report, "score": study.score}[name](arguments)


if __name__ == "__main__":
    run_tool(main)

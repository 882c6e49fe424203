"""What commands print for people: tables, and at a terminal what to do next."""

import shlex
import sys
from collections.abc import Sequence

from latentdebias.errors import command


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines, the first of them the header; a column is as wide as its widest cell.

    Columns of numbers are flush right, columns of words flush left.
    """
    columns = [_aligned(column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _aligned(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    of_numbers = all(cell[:1] in "+-.0123456789" for cell in column[1:])
    return [cell.rjust(width) if of_numbers else cell.ljust(width) for cell in column]


def at_terminal() -> bool:
    """Whether a person reads what is printed; scripts get the same lines in every version."""
    return sys.stdout.isatty()


def print_next(name: str, *arguments: object) -> None:
    """At a terminal, print a command that goes on from here; an argument in capitals is left to the user."""
    if at_terminal():
        print(f"next: {command(name)} {shlex.join(map(str, arguments))}")

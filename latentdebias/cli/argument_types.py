"""Types of arguments that several commands use, and the argument `--imports`.

argparse turns a ValueError or ArgumentTypeError of a type into its own error message.
"""

import argparse
import math
from typing import Any

LARGEST = 2**63 - 1


def positive(text: str) -> int:
    """An integer of at least 1, of 64 bits."""
    if not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1" if int(text) < 1 else f"it is above {LARGEST}")
    return int(text)


def not_negative(text: str) -> int:
    """An integer of at least 0, of 64 bits."""
    if not 0 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is negative" if int(text) < 0 else f"it is above {LARGEST}")
    return int(text)


def number(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return float(text)


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must be above 0, and at most 1")
    return float(text)


def names(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(text.split(","))


def add_imports_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--imports` to a command that reads no run config; its modules are imported before anything is built."""
    own = "modules of your own, found from this folder, that register autoencoders, image sources, metrics, ..."
    parser.add_argument("--imports", type=names, metavar="MODULE,...", help=own)


def spec(text: str) -> str | dict[str, Any]:
    """A registered part, given by its name or by a YAML mapping such as {name: ddim, eta: 0.5}."""
    from latentdebias.files import parse_yaml

    try:
        parsed = parse_yaml(text)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else text

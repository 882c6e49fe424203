"""Types of arguments that several commands use, and the argument `--imports`.

argparse turns a ValueError or ArgumentTypeError of a type into its own error message.
"""

import argparse
from typing import Any


def positive(text: str) -> int:
    """An integer of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """An integer of at least 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return int(text)


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
    import yaml

    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        parsed = None
    return parsed if isinstance(parsed, dict) else text

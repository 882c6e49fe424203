"""What several commands' arguments share: types, whose ValueError argparse turns into a message, and `--imports`."""

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
    """Add `--imports`, for commands that read no run config: what it names is imported before anything is built."""
    own = "modules of your own, found from this folder, that register autoencoders, image sources, metrics, ..."
    parser.add_argument("--imports", type=names, metavar="MODULE,...", help=own)


def spec(text: str) -> str | dict[str, Any]:
    """A registered part: its name, or a mapping as YAML writes it, {name: ddim, eta: 0.5}."""
    import yaml

    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        parsed = None
    return parsed if isinstance(parsed, dict) else text

"""Types of arguments: what argparse calls with the text of one, and whose ValueError it turns into a message."""

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


def spec(text: str) -> str | dict[str, Any]:
    """A registered part: its name, or a mapping as YAML writes it, {name: ddim, eta: 0.5}."""
    import yaml

    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        parsed = None
    return parsed if isinstance(parsed, dict) else text

"""What a benchmark gives: rows with a median and a spread, printed as a table and written as JSON."""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from latentdebias.commands.terminal import table
from latentdebias.evaluation.protocol.record import LIBRARIES, library_versions
from latentdebias.files import check_output_file, publish
from latentdebias.version import __version__

MORE_LIBRARIES = ("deepspeed", "accelerate", "numpy", "webdataset")


class LeftOut(Exception):
    """A variant cannot be measured here; the message is the reason, which the table states in place of a row."""


@dataclass(frozen=True)
class Row:
    """One measured quantity: the median of its values, the lowest and the highest of them, and their unit."""

    name: str
    median: float
    low: float
    high: float
    unit: str

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str) -> "Row":
        """The row of one or more values."""
        return cls(name, median(values), min(values), max(values), unit)


@dataclass
class Table:
    """The rows of one benchmark, notes on how to read them, and what was left out with the reason."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, values: Sequence[float], unit: str) -> None:
        """Add the row of one or more values."""
        self.rows.append(Row.of(name, values, unit))

    def add_ratio(self, name: str, over: Sequence[float], under: Sequence[float]) -> None:
        """Add the row `name` of the ratios of paired values, each pair measured in the same round."""
        self.add(name, [a / b for a, b in zip(over, under, strict=True)], "x")

    def report(self, file: str | None) -> None:
        """Print the table, and write it to the JSON `file` where one is named."""
        facts = environment()
        print(f"{self.title}\n{facts['machine']}; commit {facts['commit']}; {facts['date']}")
        print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
        cells = [[row.name, *map("{:.5g}".format, (row.median, row.low, row.high)), row.unit] for row in self.rows]
        print(table([["", "median", "low", "high", "unit"], *cells]))
        for name, reason in self.left_out.items():
            print(f"{name}: left out: {reason}")
        for note in self.notes:
            print(note)
        if file is not None:
            publish(Path(file), json.dumps({**facts, **asdict(self)}, indent=1).encode())


def check_json(file: str | None) -> None:
    """Raise `UserError` before anything is measured where the JSON `file` could not be written."""
    if file is not None:
        check_output_file(Path(file))


def environment() -> dict[str, Any]:
    """What a figure was measured on: machine, commit, versions of the libraries, command line and date."""
    return {
        "machine": _machine(),
        "commit": _commit(),
        "versions": {
            **library_versions((*LIBRARIES, *MORE_LIBRARIES)),
            # Of a checkout, pip states the version that was installed once.
            "latentdebias": __version__,
            "python": platform.python_version(),
        },
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _machine() -> str:
    """The processor, the cores that this process may use, its threads, and its GPU where there is one."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{found.group(1) if found else platform.machine()}, {cores} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}; {cpu}" if torch.cuda.is_available() else cpu


def _commit() -> str:
    """The commit of the checkout that this package runs from, with -dirty where files differ from it."""
    root = Path(__file__).parents[4]
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a checkout"

"""Fuzz the readers by hand, an hour each: `python tests/fuzz --seconds 3600`; a failure's file stays in --out."""

import argparse
from pathlib import Path

from fuzz_targets import TARGETS
from fuzzing import fuzz

parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
parser.add_argument(
    "targets", nargs="*", choices=[*TARGETS], metavar="TARGET", help=f"default all: {', '.join(TARGETS)}"
)
parser.add_argument("--seconds", type=float, default=10.0, help="for each target; default 10")
parser.add_argument("--seed", type=int, default=0, help="default 0")
parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where the files are written; default fuzz")
arguments = parser.parse_args()
for name in arguments.targets or TARGETS:
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {fuzz(TARGETS[name], folder, arguments.seconds, arguments.seed)} files", flush=True)

"""`latentdebias ema`: the average of any relative width, made after training from a run's snapshots."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from latentdebias.cli.argument_types import number
from latentdebias.errors import UserError, command, run_tool

LARGE_ERROR = 0.1


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias ema`."""
    parser = argparse.ArgumentParser(
        prog=command("ema"), description="Make the average of any relative width after training, from its snapshots."
    )
    parser.add_argument("--run", required=True, type=Path, metavar="RUN_DIR", help="trained with ema.snapshot_every")
    parser.add_argument("--std", required=True, type=number, help="relative width, 0.001 to 0.288")
    parser.add_argument("--step", type=int, metavar="N", help="default: the last snapshot's")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model directory to write")
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.terminal import print_next
    from latentdebias.models.ema_snapshots import reconstruct

    _check_out(arguments.out)
    step, error = reconstruct(arguments.run, arguments.std, arguments.step, arguments.out.absolute())
    if error > LARGE_ERROR:
        print(f"WARNING: these snapshots cannot make that average: profile error {error:.0%}", file=sys.stderr)
    print(f"the average of width {arguments.std:.3f} at step {step} in {arguments.out}; profile error {error:.2%}")
    print_next("evaluate", "--model", arguments.out, "--reference", "IMAGES")


def _check_out(out: Path) -> None:
    from latentdebias.files import check_output_folder
    from latentdebias.models.model_directory import WEIGHTS

    if out.is_file():
        raise UserError(f"--out {out} is a file; name a folder.")
    check_output_folder(out)
    if out.exists() and any(out.iterdir()) and not (out / WEIGHTS).is_file():
        raise UserError(f"--out {out} is no model directory, and would be replaced by one; name another folder.")


if __name__ == "__main__":
    run_tool(main)

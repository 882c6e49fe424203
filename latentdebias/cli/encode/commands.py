"""What `encode.py` does with shard sets that exist: verify, status, finalize, inspect, merge and subset."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from latentdebias.errors import UserError, legal_choices
from latentdebias.shards.completeness import refuse_absent, refuse_unfinished
from latentdebias.shards.format import MANIFEST, PLAN, read_plan, shard_name
from latentdebias.shards.jobs.encode import finalize
from latentdebias.shards.jobs.inspect import summary
from latentdebias.shards.jobs.merge import merge
from latentdebias.shards.jobs.status import SetStatus, set_status
from latentdebias.shards.jobs.subset import Selection, kept_classes, subset
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.reader import LatentShards


def _verify(words: list[str]) -> None:
    directory = _parser("verify", "Check a finished shard set.").parse_args(words).directory
    print(f"verified: {summary(verify(directory), directory)}")


def _status(words: list[str]) -> None:
    parser = _parser("status", "Show how far a running set is, from its files alone.")
    one_object = "print one JSON object, for programs"
    parser.add_argument("--json", dest="show", action="store_const", const=_as_json, default=_as_text, help=one_object)
    arguments = parser.parse_args(words)
    print(arguments.show(set_status(arguments.directory)))


def _as_json(status: SetStatus) -> str:
    return json.dumps(dataclasses.asdict(status))


def _as_text(status: SetStatus) -> str:
    lines = [
        f"{'finished' if status.finished else 'not finished'}: {status.shards_done} of {status.shards_total} shards, "
        f"{status.inputs_done} of {status.inputs_total} inputs ({status.images} images, {status.rejected} rejected)"
    ]
    if status.inputs_per_second and status.seconds_left is not None:
        left = f"{status.seconds_left / 3600:.1f} h" if status.seconds_left > 3600 else f"{status.seconds_left:.0f} s"
        lines.append(f"{status.inputs_per_second:.1f} inputs/s lately; about {left} left at that rate")
    lines += [
        f"{shard.shard} in progress: process {shard.pid} on {shard.host}, {shard.size / 1e6:.1f} MB, last written "
        f"{shard.seconds_since_write:.0f} s ago"
        for shard in status.in_progress
    ]
    return "\n".join(lines)


def _finalize(words: list[str]) -> None:
    parser = _parser("finalize", "Write the manifest of a set whose shards are all complete.")
    directory = parser.parse_args(words).directory
    if not (directory / MANIFEST).exists():
        _write_missing_manifest(directory)
    print(summary(LatentShards(directory).manifest, directory))


def _write_missing_manifest(directory: Path) -> None:
    refuse_absent(directory)
    plan = read_plan(directory)
    beyond = directory / f"{shard_name(plan.num_shards)}.json"
    if beyond.exists():
        raise UserError(
            f"{directory} holds more than the {plan.num_shards} shards of its {PLAN}: it was merged, and its "
            f"{MANIFEST} deleted. Make it again with: python tools/encode.py merge OUT DIR DIR"
        )
    if finalize(directory, plan) is None:
        refuse_unfinished(directory)


def _merge(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="encode.py merge", description="Make one set out of several, by links.")
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that does not exist yet, or is empty")
    parser.add_argument("directories", metavar="DIR", type=Path, nargs="+", help="finished sets of equal settings")
    arguments = parser.parse_args(words)
    print(summary(merge(arguments.out, arguments.directories), arguments.out))


def _subset(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="encode.py subset", description="Make a set of some samples of another.")
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that does not exist yet, or is empty")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a finished set")
    parser.add_argument("--classes", type=_names, metavar="A,B", help="names, or indices in a set without names")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--num", type=int, metavar="N", help="samples in all, drawn at random")
    size.add_argument("--per-class", type=int, metavar="N", help="samples of each class, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    given = vars(parser.parse_args(words))
    out, directory = given.pop("out"), given.pop("directory")
    selection = Selection(**given)
    made = subset(out, directory, selection)
    print(summary(made, out))
    if selection.classes is not None:
        old = kept_classes(LatentShards(directory).manifest, selection)
        print("labels renumbered: " + ", ".join(f"{label} -> {number}" for number, label in enumerate(old)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _inspect(words: list[str]) -> None:
    # Here, because the evaluation's imports take seconds that no other command needs.
    from latentdebias.cli.encode.inspect import inspect

    inspect(words)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"encode.py {name}", description=description)
    parser.add_argument("directory", metavar="DIR", type=Path)
    return parser


def run_command(name: str, words: list[str]) -> None:
    """Run command `name` with the words that follow it; `UserError` where there is no such command."""
    if name not in COMMANDS:
        raise UserError(
            f"Unknown command {name!r}. {legal_choices(name, COMMANDS)} To encode, begin with --images DIR."
        )
    COMMANDS[name](words)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "verify": _verify,
    "status": _status,
    "finalize": _finalize,
    "inspect": _inspect,
    "merge": _merge,
    "subset": _subset,
}

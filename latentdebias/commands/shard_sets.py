"""The subcommands of `latentdebias encode` for existing sets: verify, status, finalize, inspect, merge and subset."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from latentdebias.errors import UserError, command
from latentdebias.shards.completeness import refuse_absent, refuse_unfinished
from latentdebias.shards.format import MANIFEST, PLAN, read_plan, shard_name
from latentdebias.shards.jobs.encode import finalize
from latentdebias.shards.jobs.inspect import summary
from latentdebias.shards.jobs.merge import merge
from latentdebias.shards.jobs.status import SetStatus, set_status
from latentdebias.shards.jobs.subset import Selection, kept_classes, subset
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.reader import LatentShards


def _verify(arguments: argparse.Namespace) -> None:
    print(f"verified: {summary(verify(arguments.directory), arguments.directory)}")


def _status(arguments: argparse.Namespace) -> None:
    status = set_status(arguments.directory)
    print(json.dumps(dataclasses.asdict(status)) if arguments.json else _as_text(status))


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


def _finalize(arguments: argparse.Namespace) -> None:
    directory = arguments.directory
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
            f"{MANIFEST} deleted. Make it again with: {command('encode')} merge OUT DIR DIR"
        )
    if finalize(directory, plan) is None:
        refuse_unfinished(directory)


def _merge(arguments: argparse.Namespace) -> None:
    print(summary(merge(arguments.out, arguments.directories), arguments.out))


def _subset(arguments: argparse.Namespace) -> None:
    given = dict(vars(arguments))
    out, directory = given.pop("out"), given.pop("directory")
    selection = Selection(**given)
    made = subset(out, directory, selection)
    print(summary(made, out))
    if selection.classes is not None:
        old = kept_classes(LatentShards(directory).manifest, selection)
        print("labels renumbered: " + ", ".join(f"{label} -> {number}" for number, label in enumerate(old)))


def _inspect(arguments: argparse.Namespace) -> None:
    # Imported here because the evaluation package takes seconds to import, and the other subcommands do not need it.
    from latentdebias.commands.inspect import inspect

    inspect(arguments)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "verify": _verify,
    "status": _status,
    "finalize": _finalize,
    "inspect": _inspect,
    "merge": _merge,
    "subset": _subset,
}

"""The progress of a latent shard set, read from its files alone, without asking the processes that make it."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from latentdebias.errors import UserError, command
from latentdebias.shards.format import (
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    complete_summary,
    read_manifest,
    read_plan,
    shard_name,
    summary_path,
)

RECENT_SHARDS = 64
TEMPORARY = re.compile(r"(?P<shard>shard-\d+)\.tar\.(?P<host>.+)-(?P<pid>\d+)\.tmp")


@dataclass(frozen=True)
class ShardInProgress:
    """A tar that a process is writing, or that a killed process left; `seconds_since_write` tells the two apart."""

    shard: str
    host: str
    pid: int
    size: int
    seconds_since_write: float


@dataclass(frozen=True)
class SetStatus:
    """The progress of a shard set; `inputs_done` counts the images and rejected inputs of its complete shards.

    `inputs_per_second` and `seconds_left` are None where the set is finished or no shard is complete.
    """

    finished: bool
    shards_done: int
    shards_total: int
    inputs_done: int
    inputs_total: int
    images: int
    rejected: int
    inputs_per_second: float | None
    seconds_left: float | None
    in_progress: list[ShardInProgress]


def set_status(directory: Path) -> SetStatus:
    """The progress of `directory`; `UserError` where it is no shard set, neither finished nor begun."""
    if (directory / MANIFEST).exists():
        return _finished(read_manifest(directory))
    if not (directory / PLAN).exists():
        raise UserError(
            f"{directory} holds neither {PLAN} nor {MANIFEST}, so it is no set of latent shards. Pass the folder "
            f"that was given to {command('encode')} as --out."
        )
    return _running(directory, read_plan(directory))


def _finished(manifest: Manifest) -> SetStatus:
    shards, rejected = len(manifest.shards), len(manifest.rejected)
    done = manifest.count + rejected
    return SetStatus(True, shards, shards, done, done, manifest.count, rejected, None, None, [])


def _running(directory: Path, plan: Plan) -> SetStatus:
    images = rejected = 0
    completions: list[tuple[float, int]] = []
    for name in map(shard_name, range(plan.num_shards)):
        if summary := complete_summary(directory, name):
            images += summary.count
            rejected += len(summary.rejected)
            when = summary_path(directory, name).stat().st_mtime
            completions.append((when, summary.count + len(summary.rejected)))
    rate = _recent_rate((directory / PLAN).stat().st_mtime, completions)
    done = images + rejected
    return SetStatus(
        finished=False,
        shards_done=len(completions),
        shards_total=plan.num_shards,
        inputs_done=done,
        inputs_total=plan.num_inputs,
        images=images,
        rejected=rejected,
        inputs_per_second=rate,
        seconds_left=(plan.num_inputs - done) / rate if rate else None,
        in_progress=_in_progress(directory),
    )


def _recent_rate(begun: float, completions: list[tuple[float, int]]) -> float | None:
    """Inputs per second over the last `RECENT_SHARDS` completed shards, all processes together, pauses included.

    `completions` holds the time of each shard's summary and its number of inputs, and `begun` is the time of the
    plan, both in seconds. None where no time has passed.
    """
    events = [(begun, 0), *sorted(completions)][-RECENT_SHARDS - 1 :]
    seconds = events[-1][0] - events[0][0]
    return sum(inputs for _, inputs in events[1:]) / seconds if seconds > 0 else None


def _in_progress(directory: Path) -> list[ShardInProgress]:
    found = []
    for path in sorted(directory.glob("shard-*.tar.*.tmp")):
        if match := TEMPORARY.fullmatch(path.name):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # completed, and so renamed, since it was listed
            age = max(0.0, time.time() - stat.st_mtime)
            found.append(ShardInProgress(match["shard"], match["host"], int(match["pid"]), stat.st_size, age))
    return found

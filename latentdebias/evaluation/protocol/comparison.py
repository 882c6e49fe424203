"""Comparison of two evaluations: the settings that differ, then the scores."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from latentdebias.evaluation.metrics.metric import METRICS, Better, loss_of
from latentdebias.evaluation.protocol.intervals import better_of
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.registry import plain

RESULTS = {"scores", "intervals", "samples", "samples_sha256"}
DECISIVE = ("num_samples", "reference_sha256", "extractor", "resize", "metrics")
MISSING = "not there"


def comparison(a: ProtocolRecord, b: ProtocolRecord) -> str:
    """Printable text on two records: every setting that differs, then every common score with a verdict."""
    return "\n".join([*_settings(a, b), "", *_verdicts(a, b)])


def differences(a: ProtocolRecord, b: ProtocolRecord) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, under dotted names such as `sampling.steps`, with the values in a and b."""
    mine, theirs = (dict(_flat(dataclasses.asdict(record))) for record in (a, b))
    names = [*mine, *(name for name in theirs if name not in mine)]
    pairs = {name: (mine.get(name, MISSING), theirs.get(name, MISSING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if value is None or (not prefix and name in RESULTS):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain(value)


def _settings(a: ProtocolRecord, b: ProtocolRecord) -> Iterator[str]:
    differing = differences(a, b)
    if not differing:
        yield "Every setting is the same."
        return
    yield "Settings that differ:"
    for name, (mine, theirs) in differing.items():
        yield f"  {name}: A {mine}, B {theirs}"
    if decisive := [name for name in DECISIVE if name in differing]:
        yield f"Not one protocol: {', '.join(decisive)} decide a score's value, so what follows compares those too."


def better_in(record: ProtocolRecord) -> dict[str, Better]:
    """The better direction of each score of a record, by name; metrics that are not registered here are left out."""
    known = [spec for spec in record.metrics if spec.get("name") in METRICS.names()]
    return better_of([METRICS.build(spec) for spec in known])


def _verdicts(a: ProtocolRecord, b: ProtocolRecord) -> Iterator[str]:
    better = better_in(a)
    common = [name for name in a.scores if name in b.scores]
    if not common:
        yield "No score is in both."
    for name in common:
        yield f"{name}: A {a.told(name)}, B {b.told(name)}: {_verdict(a, b, name, better.get(name))}"


def _verdict(a: ProtocolRecord, b: ProtocolRecord, name: str, better: Better | None) -> str:
    if better is None:
        return "no telling which is better"
    if name not in a.intervals or name not in b.intervals:
        return "no interval in both, so no verdict"
    (low_a, high_a), (low_b, high_b) = a.intervals[name], b.intervals[name]
    if low_a <= high_b and low_b <= high_a:
        return "not distinguishable at 95%"
    a_wins = loss_of(a.scores[name], better) < loss_of(b.scores[name], better)
    return f"{'A' if a_wins else 'B'} is better ({better})"

"""What merge and subset share: a new set that appears whole or not at all, and its plan."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentdebias.errors import UserError
from latentdebias.files import published_folder
from latentdebias.shards.format import Manifest, Plan


@contextmanager
def new_set(out: Path) -> Iterator[Path]:
    """A context that gives an empty folder `out`.new to fill, and renames it to `out` once the block has succeeded.

    `UserError` where `out` holds anything already, or a stopped run has left `out`.new behind.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} is not empty, and a new set is never mixed with what is there. Pass another OUT, or delete it "
            f"if nothing in it is needed: rm -r {out}"
        )
    for left in (out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")):
        if left.exists():
            raise UserError(
                f"{left} exists, where {out} would be prepared: a run that was stopped left it, or it is something "
                f"else. Pass another OUT, or delete it if nothing in it is needed: rm -r {left}"
            )
    with published_folder(out) as fresh:
        yield fresh


def plan_of_new_set(
    manifest: Manifest,
    made_from: object,
    *,
    samples_per_shard: int,
    num_inputs: int,
    num_classes: int,
    class_names: list[str],
) -> Plan:
    """The plan of a set whose samples are taken from finished sets with the settings of `manifest`.

    `made_from` is a JSON value that says which samples those are; its sha256 becomes the plan's `inputs_sha256`.
    """
    plan = Plan(**{field.name: getattr(manifest, field.name) for field in dataclasses.fields(Plan)})
    return dataclasses.replace(
        plan,
        samples_per_shard=samples_per_shard,
        num_inputs=num_inputs,
        inputs_sha256=hashlib.sha256(json.dumps(made_from).encode()).hexdigest(),
        num_classes=num_classes,
        class_names=class_names,
    )

"""`sampling.json`: how a sample set was drawn, in this version's form whichever version wrote it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentdebias.autoencoders import AutoencoderIdentity
from latentdebias.files import read_json
from latentdebias.registry import brief, validate
from latentdebias.sampling import DrawOptions

FORMAT_VERSION = 3
"""3 since version 0.2.0, whose guidance is one mapping; 2 in version 0.1.0, whose guidance was flat keys."""


def settings_of(options: DrawOptions) -> dict[str, Any]:
    """`options` as records hold them: parts by name, with those of their fields that are not at their defaults."""
    return {each.name: brief(getattr(options, each.name)) for each in dataclasses.fields(DrawOptions)}


def options_of(settings: Mapping[str, Any], where: str) -> DrawOptions:
    """The options that `settings_of` wrote, in this version or in 0.1.0; other keys of `settings` are ignored.

    Raises `UserError` for settings that are none, such as a sampler that no module here registers.
    """
    nested = nest_guidance(settings)
    names = {each.name for each in dataclasses.fields(DrawOptions)}
    return validate(DrawOptions, {name: nested[name] for name in nested if name in names}, where)


def nest_guidance(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the flat guidance keys of version 0.1.0 (`guidance_interval`, ...) as one `guidance` mapping."""
    flat = {old: new.removeprefix("guidance.") for old, new in DrawOptions.moved.items() if old in settings}
    nested = {name: value for name, value in settings.items() if name not in flat}
    if not isinstance(settings.get("guidance"), Mapping) and "guidance" in settings:
        nested["guidance"] = {"scale": settings["guidance"], **{new: settings[old] for old, new in flat.items()}}
    return nested


def upgraded(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record of version 0.1.0 in this version's form; one of this version as it is."""
    if record.get("format_version") != 2:
        return dict(record)
    return {**nest_guidance(record), **settings_of(options_of(record, where)), "format_version": FORMAT_VERSION}


def read_record(path: Path, mend: str) -> dict[str, Any]:
    """The record in the file `path`, in this version's form; `UserError` with the advice `mend` for any other file."""
    return upgraded(read_json(path, mend), str(path))


def vae_of(identity: AutoencoderIdentity) -> str:
    """The autoencoder that decodes, by name and by its weights' sha256; the name alone where it has no weights."""
    return f"{identity.id} sha256:{identity.weights_sha256}" if identity.weights_sha256 else identity.id

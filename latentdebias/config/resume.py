"""What a checkpoint must agree with to be resumed: the options whose policy is "same", and the data."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from latentdebias.config.run_config import RunConfig
from latentdebias.errors import UserError
from latentdebias.registry import plain, validate

MISSING = "not set"


class ResumeSettings:
    """The settings of a run that its checkpoints record, as flat `section.key: value`.

    `extra` holds what is no option, such as the sha256 of the data. Settings named in `may_change` may differ.
    """

    def __init__(self, config: RunConfig, extra: Mapping[str, Any], may_change: Collection[str] = ()) -> None:
        self.extra, self.may_change = dict(extra), set(may_change)
        self.recorded: dict[str, Any] = {**_settings(config), **extra}

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Each setting that a checkpoint recorded otherwise, in words; a setting that it lacks had its default.

        Raises `UserError` for a recorded setting that this version does not know.
        """
        options = {key: value for key, value in saved.items() if key not in self.extra and "." in key}
        theirs = {**_settings(_config_of(options)), **{key: saved.get(key) for key in self.extra}}
        names = [*self.recorded, *(name for name in theirs if name not in self.recorded)]
        return [
            line
            for name in names
            if name not in self.may_change
            for line in _compared(name, theirs.get(name, MISSING), self.recorded.get(name, MISSING))
        ]


def _compared(name: str, there: Any, now: Any) -> list[str]:
    """In words how a setting differs, field by field where both are parts of one name; empty where it does not."""
    if there == now:
        return []
    if isinstance(there, dict) and isinstance(now, dict):
        if there.get("name") == now.get("name"):
            return [line for key in now for line in _compared(f"{name}.{key}", there.get(key, MISSING), now[key])]
        there, now = there.get("name", there), now.get("name", now)
    return [f"{name}: {there!r} there, {now!r} now"]


def _settings(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.metadata["on_resume"] == "free":
            continue
        section = getattr(config, field.name)
        free = {each.name for each in dataclasses.fields(section) if each.metadata.get("on_resume", "same") == "free"}
        found |= {f"{field.name}.{key}": value for key, value in plain(section).items() if key not in free}
    return found


def _config_of(flat: Mapping[str, Any]) -> RunConfig:
    """A config with these settings and otherwise the defaults."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, key = name.split(".", 1)
        sections.setdefault(section, {})[key] = value
    try:
        return validate(RunConfig, sections, "the checkpoint's settings")
    except UserError as error:
        raise UserError(f"{error} Another version of this package wrote it: resume it with that one.") from None

"""What a run must have in common with a checkpoint to resume it: the options with `on_resume` "same", and the data."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

from latentdebias.config.run_config import RunConfig
from latentdebias.diffusion.spec_versions import of_version_1
from latentdebias.errors import UserError
from latentdebias.registry import plain, validate

MISSING = "not set"


class ResumeSettings:
    """The settings of a run that its checkpoints record, as flat `section.key: value`.

    `extra` holds the recorded settings that are no options with `on_resume` "same", such as the sha256 of the data.
    Settings named in `may_change` may differ from those of the checkpoint.
    """

    def __init__(self, config: RunConfig, extra: Mapping[str, Any], may_change: Collection[str] = ()) -> None:
        assert not any(map(_is_option, extra)), "an option is recorded by its policy alone"
        self.may_change = set(may_change)
        self.recorded: dict[str, Any] = {**_settings(config), **extra}

    def differences(self, saved: Mapping[str, Any], version: int) -> list[str]:
        """One line for each setting that differs from those `saved` in a checkpoint of format `version`.

        An option that the checkpoint lacks is compared by its default. Raises `UserError` for an option that this
        version of the package does not know.
        """
        options = {name: value for name, value in saved.items() if _is_option(name)}
        others = {name: value for name, value in saved.items() if name not in options}
        theirs = {**_settings(_config_of(options, version)), **others}
        names = [*self.recorded, *(name for name in theirs if name not in self.recorded)]
        pairs = ((name, theirs.get(name, MISSING), self.recorded.get(name, MISSING)) for name in names)
        return [line for pair in pairs for line in self._compared(*pair)]

    def _compared(self, name: str, there: Any, now: Any) -> list[str]:
        """Lines on how the setting `name` differs between the checkpoint (`there`) and this run (`now`).

        Two parts of the same name are compared field by field. There are no lines where nothing differs.
        """
        if there == now or name in self.may_change:
            return []
        if isinstance(there, dict) and isinstance(now, dict):
            if there.get("name") == now.get("name"):
                fields = (self._compared(f"{name}.{key}", there.get(key, MISSING), now[key]) for key in now)
                return [line for lines in fields for line in lines]
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


@functools.cache
def _defaults() -> RunConfig:
    """A config with every option at its default."""
    return RunConfig()


def _is_option(name: str) -> bool:
    """Whether `section.key` is an option with `on_resume` "same", or an option that this version does not know."""
    section, _, key = name.partition(".")
    default = getattr(_defaults(), section, None)
    if default is None or not key or "." in key:
        return False
    return all(each.name != key or each.metadata.get("on_resume") != "free" for each in dataclasses.fields(default))


def _config_of(flat: Mapping[str, Any], version: int) -> RunConfig:
    """The config with the settings `flat` of a checkpoint of format `version`, and defaults for all others.

    Raises `UserError` where this version of the package does not know a setting.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, key = name.split(".", 1)
        sections.setdefault(section, {})[key] = value
    if version == 1:
        sections["diffusion"] = of_version_1(sections.get("diffusion", {}))
    try:
        return validate(RunConfig, sections, "the checkpoint's settings")
    except UserError as error:
        raise UserError(f"{error} Another version of this package wrote it: resume it with that one.") from None

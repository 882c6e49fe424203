"""Reading a run config: YAML with `base:` inheritance and `--set` overrides, validated once, plug-ins first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentdebias.config.run_config import RunConfig
from latentdebias.errors import UserError, legal_choices
from latentdebias.files import parse_yaml
from latentdebias.registry import load_plugins, spelled_out, validate

PACKAGE = Path(__file__).parents[1]
# An installed package holds the shipped configs; in a checkout they lie beside it.
CONFIG_DIR = next((folder for folder in [PACKAGE / "configs"] if folder.is_dir()), PACKAGE.parent / "configs")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config by path or by its name in `configs/`, apply `key.sub=value` overrides, and check every key.

    Raises `UserError` for a missing file, broken YAML, an unknown key or a value of the wrong type.
    """
    path = _find(name_or_path, beside=Path.cwd())
    values = _read_with_base(path, seen=())
    for override in overrides:
        values = _override(values, override)
    load_plugins(_imports(values, path))
    return validate(RunConfig, values, str(path))


def _imports(values: Mapping[str, Any], path: Path) -> list[str]:
    """The modules in `imports`, which are needed before the rest is validated: they register parts that it may name."""
    imports = values.get("imports") or []
    if not isinstance(imports, list) or not all(isinstance(module, str) for module in imports):
        raise UserError(f"`imports` in {path} is {imports!r}, and must be a list of modules, such as [my_parts].")
    return imports


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` applied, section by section.

    A part with another `name` replaces the old part completely; with the same name, or none, it changes fields of it.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _renames(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _renames(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "name" in new and new["name"] != old.get("name")


def _find(name_or_path: str, beside: Path) -> Path:
    folders = (beside, Path("configs"), CONFIG_DIR)
    candidates = [folder / name for folder in folders for name in (name_or_path, f"{name_or_path}.yaml")]
    for candidate in candidates:
        if os.path.isfile(candidate):  # false, and no error, for a name that is too long
            return candidate
    names = [path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*.yaml")]
    raise UserError(
        f"There is no config {name_or_path!r}, as a path or in {CONFIG_DIR}. {legal_choices(name_or_path, names)}"
    )


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise UserError(f"Config {path} names itself as its base: {' -> '.join(map(str, [*seen, path]))}.")
    values = _read(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"`base:` in {path} must name one config, and is {base!r}; for example base: base.yaml")
    return merge(_read_with_base(_find(base, beside=path.parent), (*seen, path)), values)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Config {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(
            f"Config {path} must be a mapping of sections such as `training:`, and is {type(values).__name__}."
        )
    return spelled_out(RunConfig, values)


def _override(values: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key.sub=value, and got {override!r}; for example --set training.steps=1000")
    try:
        change: Any = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"The value in --set {override!r} is not valid YAML: {error}") from None
    *sections, last = key.split(".")
    owner: Any = values
    for section in sections:
        owner = owner.get(section) if isinstance(owner, Mapping) else owner
    # With `weighting: min_snr` in the config, `--set diffusion.weighting.gamma=3` changes a field of min_snr.
    named = {"name": owner} if isinstance(owner, str) and last != "name" else {}
    change = {**named, last: change}
    for section in reversed(sections):
        change = {section: change}
    return merge(values, spelled_out(RunConfig, change))

"""Registries: each maps names in the YAML to frozen dataclasses, whose fields are the legal options."""

import dataclasses
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import pydantic

from latentdebias.errors import UserError, legal_choices

T = TypeVar("T")
C = TypeVar("C", bound=type)
Spec = str | Mapping[str, Any]

PLUGIN_GROUP = "latentdebias.plugins"
_REGISTRY_OF: dict[type, "Registry[Any]"] = {}


class Registry(Generic[T]):
    """A family of named dataclasses, built from a name or from a mapping `{"name": ..., field: value}`.

    An unknown name or field raises `UserError`, which lists the legal ones.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[type, dict[str, Any]]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """A class decorator that registers a dataclass under `name`."""

        def decorate(cls: C) -> C:
            assert dataclasses.is_dataclass(cls), f"{cls.__name__} is registered but is no dataclass"
            self._add(name, cls, {})
            _REGISTRY_OF[cls] = self
            return cls

        return decorate

    def preset(self, name: str, of: str, **fields: Any) -> None:
        """Register `name` as entry `of` with other defaults, as in `preset("dit_xl_patch2", of="dit", depth=28)`."""
        self._add(name, self._entries[of][0], fields)

    def _add(self, name: str, cls: type, defaults: dict[str, Any]) -> None:
        assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
        self._entries[name] = (cls, defaults)

    def names(self) -> list[str]:
        """Every registered name, presets among them, sorted."""
        return sorted(self._entries)

    def newest_first(self) -> Iterator[T]:
        """Every entry, built with its default options, in the reverse order of registration."""
        return (self.build(name) for name in reversed(list(self._entries)))

    def class_of(self, name: str) -> type:
        """The dataclass that is registered under `name`."""
        return self._entries[name][0]

    @property
    def part(self) -> pydantic.PlainValidator:
        """The annotation of a config field that holds a built entry: `Annotated[Weighting, WEIGHTINGS.part]`.

        The field accepts what `build` accepts; an error names the place of the field in the config.
        """
        return pydantic.PlainValidator(self.build)

    def build(self, spec: Spec | T) -> T:
        """The object that `spec` describes; an object that is built already is returned as it is."""
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping):
            if _REGISTRY_OF.get(type(spec), self) is not self or spec is None or isinstance(spec, PLAIN_TYPES):
                raise UserError(f"{spec!r} is no {self.kind}: give a name, or {{name: NAME, FIELD: VALUE}}.")
            return spec
        fields = dict(spec)
        name = fields.pop("name", None)
        if not isinstance(name, str) or name not in self._entries:
            raise UserError(f"Unknown {self.kind} {name!r}. {legal_choices(name, self._entries)}")
        cls, defaults = self._entries[name]
        return cast(T, validate(cls, {**defaults, **fields}, f"{self.kind} {name!r}"))

    def name_of(self, built: T) -> str:
        """The name under which the class of `built` is registered: `dit` for an object built as `dit_xl_patch2`.

        Raises `UserError` where the class is not registered.
        """
        for name, (cls, _) in self._entries.items():
            if type(built) is cls:
                return name
        raise UserError(
            f"{type(built).__name__} is no registered {self.kind}, so it cannot be written down; "
            f"decorate it with @register(...) of that registry."
        )

    def preset_of(self, built: T) -> str:
        """The name of the preset that builds an object equal to `built`; `name_of(built)` where there is none."""
        presets = (name for name, (cls, fields) in self._entries.items() if fields and cls is type(built))
        return next((name for name in presets if self.build(name) == built), self.name_of(built))

    def spec_of(self, built: T) -> dict[str, Any]:
        """The mapping from which `build` makes an object equal to `built`: name and all fields, as plain data."""
        return {"name": self.name_of(built), **_plain_fields(built)}


PLAIN_TYPES = (bool, int, float, list, tuple)
CHECKED = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""How pydantic checks what users write; a field that may be infinite says so, with `Field(allow_inf_nan=True)`."""


def option(default: Any, meaning: str, on_resume: Literal["same", "free"] = "same") -> Any:
    """A field of a config section: its default, what it means, and whether a resumed run may change it.

    `default` may be a class or a function, which is called to make the default; `...` marks an option without one.
    The meaning is the comment beside the key in `configs/base.yaml`. With `on_resume` "same", a run resumes only where
    the checkpoint has the same value; with "free", the value may change.
    """
    metadata = {"meaning": meaning, "on_resume": on_resume}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, type | FunctionType):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def validate(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from plain `values`; `UserError` names the bad field and what is legal there.

    A class may list keys of older versions as `moved = {"old_key": "new.key"}`: the error then names the new key.
    """
    _refuse_unusable(values, where)
    try:
        return pydantic.TypeAdapter(_forbid_unknown(cls)).validate_python(spelled_out(cls, values))
    except pydantic.ValidationError as error:
        raise UserError(_explain(cls, error, where)) from None


def _refuse_unusable(values: Any, where: str) -> None:
    """Raise `UserError` for a whole number beyond 64 bits, or a text that no path, name or file may hold."""
    inside = [("", values)]
    while inside:
        place, value = inside.pop()
        if isinstance(value, Mapping):
            inside += [(f"{place}.{key}".lstrip("."), item) for key, item in value.items()]
            inside += [(place, key) for key in value]
        elif isinstance(value, list | tuple):
            inside += [(place, item) for item in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UserError(
                f"Bad value for {place!r} in {where}: a whole number of {value.bit_length()} bits, above 64."
            )
        elif isinstance(value, str) and ("\0" in value or not (value.isascii() or _is_writable(value))):
            raise UserError(f"Bad value {value!r} for {place!r} in {where}: it holds a NUL byte, or half a character.")


def _is_writable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def spelled_out(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` for the dataclass `cls`, with each shorthand for a section replaced by the section.

    A section whose dataclass has a `main_field` may be given as that field's value alone: `guidance: 2` means
    `guidance: {scale: 2}`.
    """
    spelled = dict(values)
    for field in dataclasses.fields(cast(Any, cls)):
        value = spelled.get(field.name)
        if not dataclasses.is_dataclass(field.type) or value is None:
            continue
        main = getattr(field.type, "main_field", None)
        if isinstance(value, Mapping):
            spelled[field.name] = spelled_out(cast(type, field.type), value)
        elif main is not None and not isinstance(value, cast(type, field.type)):
            spelled[field.name] = {main: value}
    return spelled


def _forbid_unknown(cls: type[T]) -> type[T]:
    """Make pydantic refuse unknown keys in `cls` and in every dataclass among its fields; returns `cls`."""
    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = CHECKED  # type: ignore[attr-defined]
        for field in dataclasses.fields(cast(Any, cls)):
            if dataclasses.is_dataclass(field.type):
                _forbid_unknown(cast(type, field.type))
    return cls


def _explain(cls: type, error: pydantic.ValidationError, where: str) -> str:
    # A mistyped key may be an unknown key and a missing one: the message names the unknown one.
    first = min(error.errors(), key=lambda each: each["type"] == "missing")
    path = [str(part) for part in first["loc"]]
    place = ".".join(path)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner: Any = cls
        for part in path[:-1]:
            # A part of the path that is no field is a place in a list.
            declared = next((f.type for f in dataclasses.fields(owner) if f.name == part), None)
            owner = next((each for each in _types_in(declared) if dataclasses.is_dataclass(each)), owner)
        if (new := getattr(owner, "moved", {}).get(path[-1])) is not None:
            return f"Key {place!r} in {where} has another place now: write {'.'.join([*path[:-1], new])} instead."
        legal = [f.name for f in dataclasses.fields(owner)]
        return f"Unknown key {place!r} in {where}. {legal_choices(path[-1], legal)}"
    if first["type"] == "missing":
        return f"Missing key {place!r} in {where}: it has no default, so set it."
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return f"{place} in {where}: {cause}" if place else f"{where}: {cause}"
    return f"Bad value {first['input']!r} for {place!r} in {where}: {first['msg'].removeprefix('Value error, ')}."


def _types_in(annotation: Any) -> Iterator[Any]:
    """A type and those it is made of: the T of list[T], of T | None and of Annotated[T, ...]."""
    yield annotation
    for each in get_args(annotation):
        yield from _types_in(each)


def plain(value: Any) -> Any:
    """`value` as plain data for YAML and JSON: nested dicts and lists, registered parts as dicts with their name."""
    if (registry := _REGISTRY_OF.get(type(value))) is not None:
        return registry.spec_of(value)
    if dataclasses.is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def brief(value: Any) -> Any:
    """`value` as short plain data: a registered part is its name, with the fields that are not at their defaults."""
    if (registry := _REGISTRY_OF.get(type(value))) is not None:
        changed = {each.name: brief(getattr(value, each.name)) for each in _changed_fields(value)}
        name = registry.name_of(value)
        return {"name": name, **changed} if changed else name
    if dataclasses.is_dataclass(value):
        return {each.name: brief(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return [brief(item) for item in value] if isinstance(value, list | tuple) else plain(value)


def in_words(value: Any) -> str:
    """A part, or what a config says of it, in words: {name: min_snr, gamma: 5} as "min_snr gamma 5"."""
    spec = brief(value)
    if not isinstance(spec, dict):
        return str(spec)
    return " ".join([str(spec.get("name", "")), *(f"{key} {each}" for key, each in spec.items() if key != "name")])


def _changed_fields(built: Any) -> Iterator[dataclasses.Field[Any]]:
    for each in dataclasses.fields(built):
        factory = each.default_factory
        default = each.default if factory is dataclasses.MISSING else factory()
        if getattr(built, each.name) != default:
            yield each


def _plain_fields(built: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(built, field.name)) for field in dataclasses.fields(built)}


def load_plugins(modules: Iterable[str]) -> None:
    """Import the modules that register a user's own parts, and every installed `latentdebias.plugins` entry point.

    Modules are found as `python -m` would find them: in the working folder first. Raises `UserError` for a module that
    is not found.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        entry.load()
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"`imports:` names {module!r}, which cannot be imported ({error}); "
                f"run from the folder that holds it, or add that folder to PYTHONPATH."
            ) from None

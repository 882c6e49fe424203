"""The text of `configs/base.yaml`: every option with its default and its meaning, as its field states them."""

import dataclasses
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
import yaml

from latentdebias.config.run_config import RunConfig
from latentdebias.registry import Registry, plain

HEADER = """\
# Every key of a run config, with its default. A run file holds the differences:  base: base.yaml
# Unknown keys are errors at every level. On the command line: --set key.sub=value
# This file is written from the options' own definitions: python -m latentdebias.config.reference > configs/base.yaml
"""
COLUMN, WIDTH = 32, 120
# Of so many names the option's own words give the families.
MANY = 16


def reference() -> str:
    """The whole file: the keys of a `RunConfig` in their order, with their defaults and meanings."""
    return HEADER + "\n" + "\n".join(_lines(RunConfig(), "")) + "\n"


def _lines(section: Any, indent: str) -> Iterator[str]:
    for field in dataclasses.fields(section):
        value, meaning = getattr(section, field.name), _meaning(field)
        if dataclasses.is_dataclass(value) and not _registry(field.type):
            yield ""
            yield from _key(f"{indent}{field.name}:", meaning)
            yield from _lines(value, indent + "  ")
        elif (shown := _shown(field, value, whole=not indent)) and isinstance(shown, dict):
            yield ""
            yield from _key(f"{indent}{field.name}:", meaning)
            yield from textwrap.indent(
                yaml.safe_dump(shown, sort_keys=False, default_flow_style=None).rstrip(), indent + "  "
            ).splitlines()
        else:
            yield from _key(f"{indent}{field.name}: {_inline(shown)}", meaning)


def _shown(field: "dataclasses.Field[Any]", value: Any, whole: bool) -> Any:
    """A default as a person would write it: a part by its name, or `whole` with its fields."""
    registry = _registry(field.type)
    if registry is None or isinstance(value, list | tuple):
        return plain(value) if registry is None else [registry.preset_of(each) for each in value]
    name = registry.preset_of(value)
    if whole:
        return {"name": name} if name != registry.name_of(value) else registry.spec_of(value)
    return name


def _meaning(field: "dataclasses.Field[Any]") -> str:
    meaning, registry = str(field.metadata.get("meaning", "")), _registry(field.type)
    if registry is None or len(registry.names()) > MANY:
        return meaning
    return ";  ".join([" | ".join(registry.names()), *([meaning] if meaning else [])])


def _registry(annotation: Any) -> Registry[Any] | None:
    """The registry whose entries a field holds, one or a list of them; None of a plain option."""
    for each in (*getattr(annotation, "__metadata__", ()), *typing.get_args(annotation)):
        if isinstance(each, pydantic.PlainValidator):
            built_by = getattr(each.func, "__self__", None)
            if isinstance(built_by, Registry):
                return built_by
        if each is not annotation and typing.get_origin(each) is not None and (found := _registry(each)):
            return found
    return None


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _key(key: str, meaning: str) -> Iterator[str]:
    """The key, and its meaning as a comment beside it, which goes on below."""
    if not meaning:
        yield key
        return
    start = max(COLUMN, len(key) + 1)
    first, *more = textwrap.wrap(meaning, WIDTH - start - 2, break_long_words=False)
    yield f"{key:{start}}# {first}"
    yield from (f"{'':{start}}#   {line}" for line in textwrap.wrap(" ".join(more), WIDTH - start - 4))


if __name__ == "__main__":
    print(reference(), end="")

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
# More names than this are not listed: the option's own meaning then names the families.
MANY = 20


def reference() -> str:
    """The text of `configs/base.yaml`: the keys of a `RunConfig` in their order, with their defaults and meanings."""
    blocks = [*_blocks(RunConfig(), "")]
    alone = [len(block) > 1 and not block[1].lstrip().startswith("#") for block in blocks]
    lines: list[str] = []
    for number, block in enumerate(blocks):
        if any(alone[max(number - 1, 0) : number + 1]):
            lines.append("")
        lines += block
    return HEADER + "\n" + "\n".join(lines) + "\n"


def _blocks(section: Any, indent: str) -> Iterator[list[str]]:
    """The lines of each key of a section, those of nested sections included."""
    for field in dataclasses.fields(section):
        value, meaning = getattr(section, field.name), _meaning(field)
        shown = _shown(field, value, whole=not indent)
        if dataclasses.is_dataclass(value) and not _registry(field.type):
            inside = [line for block in _blocks(value, indent + "  ") for line in block]
            yield [*_key(f"{indent}{field.name}:", meaning), *inside]
        elif isinstance(shown, dict) and shown:
            text = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None).rstrip()
            yield [*_key(f"{indent}{field.name}:", meaning), *textwrap.indent(text, indent + "  ").splitlines()]
        else:
            yield [*_key(f"{indent}{field.name}: {_inline(shown)}", meaning)]


def _shown(field: "dataclasses.Field[Any]", value: Any, whole: bool) -> Any:
    """A default as a person would write it: a part by its name, or, where `whole` is set, as a mapping."""
    registry = _registry(field.type)
    if registry is None or isinstance(value, list | tuple):
        return plain(value) if registry is None else [registry.preset_of(each) for each in value]
    name = registry.preset_of(value)
    if whole:
        return {"name": name} if name != registry.name_of(value) else registry.spec_of(value)
    return name


def _meaning(field: "dataclasses.Field[Any]") -> str:
    """The comment of an option: the names that this package registers for it, unless they are many, and its meaning."""
    meaning, registry = str(field.metadata.get("meaning", "")), _registry(field.type)
    names = [] if registry is None else [name for name in registry.names() if _is_ours(registry.class_of(name))]
    return ";  ".join(part for part in (" | ".join(names) if len(names) <= MANY else "", meaning) if part)


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == RunConfig.__module__.partition(".")[0]


def _registry(annotation: Any) -> Registry[Any] | None:
    """The registry whose entries a field of this type holds, one or a list of them; None for a plain option."""
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
    """The lines of a key: the key with its meaning as a comment beside it, and the rest of a long comment below."""
    if not meaning:
        yield key
        return
    start = max(COLUMN, len(key) + 1)
    first, *more = textwrap.wrap(meaning, WIDTH - start - 2, break_long_words=False)
    yield f"{key:{start}}# {first}"
    yield from (f"{'':{start}}#   {line}" for line in textwrap.wrap(" ".join(more), WIDTH - start - 4))


if __name__ == "__main__":
    print(reference(), end="")

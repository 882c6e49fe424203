"""Images named in a list: CSV with a header, or JSON lines, with `path` and optionally `label`."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from latentdebias.errors import UserError, legal_choices
from latentdebias.files import parse_json
from latentdebias.images.image_set import ImageSet, SourceImage, class_index, with_class_indices, with_class_names

PATH, LABEL = "path", "label"
UNLABELLED = "no label, while other lines have one"
Row = tuple[int, dict[str, object]]
"""A line of a list: its number, counted from 1, and its values by column."""


def list_csv(paths: list[Path]) -> ImageSet:
    """The images of CSV lists, whose first line names the columns `path` and, optionally, `label`."""
    return _list(paths, _csv_rows)


def list_jsonl(paths: list[Path]) -> ImageSet:
    """The images of lists with one JSON object a line: `{"path": "a.png", "label": "cat"}`, `label` optional."""
    return _list(paths, _jsonl_rows)


def _list(paths: list[Path], read_rows: Callable[[Path], Iterator[Row]]) -> ImageSet:
    images: list[SourceImage] = []
    labels: list[str] = []
    first_named: dict[str, str] = {}
    for path in paths:
        for line, values in _rows(path, read_rows):
            place = f"{path}:{line}"
            name, label = _path(place, values), _label(place, values)
            earlier = first_named.setdefault(str(path.parent / name), place)
            fault = "" if earlier == place else f"listed twice, first at {earlier}"
            images.append(SourceImage(name, str(path.parent / name), fault=fault))
            labels.append(label)
    return _with_labels(paths[0], images, labels)


def _rows(path: Path, read_rows: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    try:
        for line, values in read_rows(path):
            for key in values:
                if key not in (PATH, LABEL):
                    raise UserError(f"{path}:{line}: unknown column {key!r}. {legal_choices(key, (PATH, LABEL))}")
            yield line, values
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"Images {str(path)!r} cannot be read as a list ({error}). Check the path and the file."
        ) from None


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="a value too many")
        for values in reader:
            yield reader.line_num, {key: value for key, value in values.items() if value is not None}


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                yield line, _json_object(f"{path}:{line}", text)


def _json_object(place: str, text: str) -> dict[str, object]:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f'{place}: no JSON object ({error}). Write lines such as {{"path": "a.png"}}.') from None


def _path(place: str, values: dict[str, object]) -> str:
    name = values.get(PATH)
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(
            f"{place}: {PATH!r} is {name!r}. Every line needs the path of an image, from the list's folder."
        )
    return name


def _label(place: str, values: dict[str, object]) -> str:
    """The label in `values` as text, "" where there is none; `UserError` where it is neither an index nor a name."""
    label = values.get(LABEL)
    if label is None:
        return ""
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise UserError(f"{place}: {LABEL!r} is {label!r}. Legal here: a class index from 0, or a class name.")
    return str(label)


def _with_labels(path: Path, images: list[SourceImage], labels: list[str]) -> ImageSet:
    """The set of `images` with `labels` ("": none), which are class indices if all are integers, else class names.

    `UserError` where some labels are indices and others are names.
    """
    given = [label for label in labels if label]
    indices = [class_index(label) for label in given]
    if all(index is None for index in indices):
        return with_class_names(images, labels, UNLABELLED)
    if None in indices:
        name, index = given[indices.index(None)], next(index for index in indices if index is not None)
        raise UserError(
            f"Images {str(path)!r}: labels are class names or class indices, and this list has both, such as "
            f"{name!r} and {index}. Write one kind throughout."
        )
    return with_class_indices(map(_indexed, images, labels), UNLABELLED)


def _indexed(image: SourceImage, label: str) -> SourceImage:
    index = class_index(label)
    return image if index is None else replace(image, label=index)

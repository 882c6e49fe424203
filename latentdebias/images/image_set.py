"""An image to encode, wherever it is stored, and an ordered set of such images."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from latentdebias.errors import UserError

EXTENSIONS = frozenset(["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"])
NO_LABEL = -1
MAX_LABEL = 2**31 - 1


@dataclass(frozen=True)
class SourceImage:
    """One input: bytes `offset .. offset + size` of the file `path` (`size` -1: to its end).

    `label` is `NO_LABEL` without a class; `fault` says why the listing already refuses this input.
    """

    name: str
    path: str
    label: int = NO_LABEL
    offset: int = 0
    size: int = -1
    fault: str = ""

    def read(self) -> bytes:
        """The bytes of the image file; an error of any kind where they cannot be read or are damaged."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class ImageSet:
    """The inputs in their order; `class_names` is empty where the source has labels without names, or no labels."""

    images: list[SourceImage]
    class_names: list[str]
    num_classes: int

    def fingerprint(self) -> str:
        """The sha256 of every input's name and label in order, which tells this set from any other."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(json.dumps([image.name, image.label]).encode())
        return digest.hexdigest()


def with_class_indices(images: Iterable[SourceImage], unlabelled: str) -> ImageSet:
    """The set of `images`, whose labels are class indices without names.

    Where only some images have a label, the others get the fault `unlabelled`.
    """
    images = list(images)
    num_classes = 1 + max((image.label for image in images), default=NO_LABEL)
    if num_classes:
        images = [_refuse_unlabelled(image, unlabelled) for image in images]
    return ImageSet(images, [], num_classes)


def with_class_names(images: list[SourceImage], names: list[str], unlabelled: str) -> ImageSet:
    """The set of `images` with the class names `names`, one for each image ("": none), whose sorted order numbers them.

    Where only some images have a class, the others get the fault `unlabelled`.
    """
    classes = sorted({name for name in names if name})
    if not classes:
        return ImageSet(images, [], 0)
    index = {"": NO_LABEL} | {name: number for number, name in enumerate(classes)}
    labelled = (replace(image, label=index[name]) for image, name in zip(images, names, strict=True))
    return ImageSet([_refuse_unlabelled(image, unlabelled) for image in labelled], classes, len(classes))


def _refuse_unlabelled(image: SourceImage, fault: str) -> SourceImage:
    return replace(image, fault=fault) if image.label == NO_LABEL and not image.fault else image


def class_index(text: str) -> int | None:
    """The class index that `text` spells in ASCII digits, up to `MAX_LABEL`, or None."""
    if not text.isascii() or not text.isdigit() or int(text) > MAX_LABEL:
        return None
    return int(text)


def image_files(folder: Path) -> Iterator[Path]:
    """Every image at any depth below `folder`, in an order that does not depend on the file system.

    Raises `UserError` for a folder that cannot be listed, and for a link to a folder that the link itself is in.
    """
    for where, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        folders.sort()
        _refuse_loops(Path(where), folders)
        yield from (Path(where, name) for name in sorted(names) if is_image(name))


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} cannot be listed ({error.strerror}); make it readable or move it.")


def _refuse_loops(where: Path, folders: list[str]) -> None:
    for path in (where / name for name in folders if (where / name).is_symlink()):
        if where.resolve().is_relative_to(path.resolve()):
            raise UserError(f"The link {path} leads back to a folder that it is in, {path.resolve()}; remove it.")


def is_image(name: str) -> bool:
    """Whether `name`, a file's name without folders, has an image's extension and is not hidden."""
    return name[:1] != "." and name.rpartition(".")[2].lower() in EXTENSIONS

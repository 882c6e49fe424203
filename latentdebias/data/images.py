"""The images to encode: a folder per class, one flat folder, or WebDataset shards of images, in a fixed order."""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import braceexpand

from latentdebias.errors import UserError

EXTENSIONS = frozenset(["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"])
NO_LABEL = -1
MAX_LABEL = 2**31 - 1
MAX_LABEL_TEXT = 32
LABEL_EXTENSION = "cls"
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


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
        """sha256 over every input's name and label in order, which tells this list from another."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(json.dumps([image.name, image.label]).encode())
        return digest.hexdigest()


def find_images(source: str) -> ImageSet:
    """List `source`: a directory of class folders, of images or of `.tar` files, a `.tar`, or a brace pattern of them.

    `UserError` where it is missing, empty, ambiguous, or an address (`pipe:`, `https:`, ...).
    """
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        raise UserError(
            f"Images {source!r}: {scheme[0]!r} addresses are refused; no command is run and nothing fetched. "
            f"Copy the data here first and pass a directory, a .tar file, or a pattern such as "
            f"'images/{{000..009}}.tar'."
        )
    if source.endswith(".tar"):
        return _from_archives([Path(path) for path in braceexpand.braceexpand(source)])
    root = Path(source)
    if not root.is_dir():
        raise UserError(
            f"Images {source!r}: no such directory. Legal here: a directory with a folder per class, a directory "
            f"of images, a directory of .tar files, a .tar file, or a pattern such as 'images/{{000..009}}.tar'."
        )
    if archives := sorted(root.glob("*.tar")):
        return _from_archives(archives)
    return _from_directory(root)


def _from_directory(root: Path) -> ImageSet:
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
    loose = [entry.name for entry in sorted(root.iterdir()) if entry.is_file() and _is_image(entry.name)]
    by_class = {name: list(_image_files(root / name)) for name in folders}
    if loose and any(by_class.values()):
        raise UserError(
            f"Images {str(root)!r} is ambiguous: it holds {loose[0]!r} directly and images in the folder "
            f"{folders[0]!r}. Either put every image into a class folder, or none."
        )
    if loose:
        return ImageSet([SourceImage(name, str(root / name)) for name in loose], [], 0)
    if not folders:
        raise UserError(f"Images {str(root)!r}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).")
    if empty := [name for name, files in by_class.items() if not files]:
        raise UserError(
            f"Images {str(root)!r}: the class folder {empty[0]!r} holds no images, yet it would take a class "
            f"index. Remove it, or point --images at the directory whose folders are the classes."
        )
    images = [
        SourceImage(path.relative_to(root).as_posix(), str(path), label)
        for label, name in enumerate(folders)
        for path in by_class[name]
    ]
    return ImageSet(images, folders, len(folders))


def _image_files(folder: Path) -> Iterator[Path]:
    """Every image at any depth below `folder`, in an order that does not depend on the file system."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(where, name) for name in sorted(names) if _is_image(name))


def _is_image(name: str) -> bool:
    return name[0] != "." and name.rpartition(".")[2].lower() in EXTENSIONS


def _from_archives(archives: list[Path]) -> ImageSet:
    images = [image for archive in archives for image in _archive_images(archive)]
    if not images:
        raise UserError(f"Images {str(archives[0])!r} ({len(archives)} archives): no images in them.")
    num_classes = 1 + max(image.label for image in images)
    if num_classes:
        images = [_refuse_unlabelled(image) for image in images]
    return ImageSet(images, [], num_classes)


def _refuse_unlabelled(image: SourceImage) -> SourceImage:
    if image.label == NO_LABEL and not image.fault:
        return replace(image, fault="no .cls member, while other samples have one")
    return image


def _archive_images(archive: Path) -> list[SourceImage]:
    """The images of one tar of `key.jpg` and `key.cls` members, found by its headers; nothing is extracted."""
    images: dict[str, SourceImage] = {}
    labels: dict[str, str] = {}
    for member, label in _members(archive):
        folder, _, file_name = member.name.rpartition("/")
        stem, _, extension = file_name.partition(".")
        key = f"{folder}/{stem}"
        if extension.lower() in EXTENSIONS:
            name = f"{archive.name}/{member.name}"
            fault = "two images under one key" if key in images else ""
            images[key] = SourceImage(name, str(archive), NO_LABEL, member.offset_data, member.size, fault)
        elif extension == LABEL_EXTENSION:
            labels[key] = label
    return [_labelled(image, labels.get(key)) for key, image in images.items()]


def _members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The plain files in `archive` (links and devices are passed over), with the text of those that are labels."""
    end = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not member.issparse():
                    yield member, _label_text(tar, member)
        with archive.open("rb") as file:
            file.seek(end)
            closed = file.read(len(END_OF_ARCHIVE)) == END_OF_ARCHIVE
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"Images {str(archive)!r} cannot be read as an uncompressed tar ({error}). "
            f"Check the path, decompress it, or copy it again."
        ) from None
    if not closed:
        raise UserError(
            f"Images {str(archive)!r}: cut short or damaged, for no end mark follows its last readable member "
            f"(byte {end}). Copy it again."
        )


def _label_text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    reader = tar.extractfile(member) if member.name.endswith(f".{LABEL_EXTENSION}") else None
    return reader.read(MAX_LABEL_TEXT).decode("utf-8", "replace").strip() if reader else ""


def _labelled(image: SourceImage, text: str | None) -> SourceImage:
    if text is None or image.fault:
        return image
    if not text.isascii() or not text.isdigit() or int(text) > MAX_LABEL:
        return replace(image, fault=f"class index {text!r} is no integer in 0..{MAX_LABEL}")
    return replace(image, label=int(text))

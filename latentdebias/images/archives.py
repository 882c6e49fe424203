"""Lists the images of tar and zip archives: class folders, a flat list of images or WebDataset samples."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.images.image_set import (
    EXTENSIONS,
    MAX_LABEL,
    ImageSet,
    SourceImage,
    class_index,
    is_image,
    with_class_indices,
    with_class_names,
)

Archive = TypeVar("Archive", Path, str)
PATIENCE = 3
"""Seconds of listing after which a progress bar is shown."""
MAX_LABEL_TEXT = 32
LABEL_EXTENSION = "cls"
MAX_IMAGE_BYTES = 2**30
UNSAFE_NAME = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.\.(/|$)")


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name there, its bytes as a `SourceImage`, and its text if it is a `.cls` label."""

    name: str
    image: SourceImage
    text: str = ""


def list_archives(archives: list[Archive], members_of: Callable[[Archive], Iterator[Member]]) -> ImageSet:
    """The images of `archives`, whose files `members_of` lists.

    If any file is a `.cls` label, all archives hold WebDataset samples, else class folders or a flat list of images.
    Raises `UserError` where some images lie in class folders and others do not.
    """
    bar = tqdm(archives, desc="list", unit="archive", delay=PATIENCE)
    listings = [list(members_of(archive)) for archive in bar]
    if any(_is_label(member) for listing in listings for member in listing):
        images = [image for listing in listings for image in _webdataset_images(listing)]
        return with_class_indices(images, "no .cls member, while other samples have one")
    members = [member for listing in listings for member in _once(listing) if is_image(_file_name(member))]
    return _with_folders(members)


def _is_label(member: Member) -> bool:
    return member.name.endswith(f".{LABEL_EXTENSION}")


def _file_name(member: Member) -> str:
    return member.name.rpartition("/")[2]


def _once(members: list[Member]) -> Iterator[Member]:
    """The members, of which each that repeats an earlier name gets a fault."""
    seen: set[str] = set()
    for member in members:
        fault = member.image.fault or ("two members of one name" if member.name in seen else "")
        seen.add(member.name)
        yield replace(member, image=replace(member.image, fault=fault))


def _webdataset_images(members: list[Member]) -> list[SourceImage]:
    """The images of WebDataset samples, each labelled by the `.cls` member with the image's key."""
    images: dict[str, SourceImage] = {}
    labels: dict[str, str] = {}
    for member in members:
        folder, _, file_name = member.name.rpartition("/")
        stem, _, extension = file_name.partition(".")
        key = f"{folder}/{stem}"
        if extension.lower() in EXTENSIONS:
            fault = member.image.fault or ("two images under one key" if key in images else "")
            images[key] = replace(member.image, fault=fault)
        elif extension == LABEL_EXTENSION:
            labels[key] = member.text
    return [_labelled(image, labels.get(key)) for key, image in images.items()]


def _labelled(image: SourceImage, text: str | None) -> SourceImage:
    if text is None or image.fault:
        return image
    if (index := class_index(text)) is None:
        return replace(image, fault=f"class index {text!r} is no integer in 0..{MAX_LABEL}")
    return replace(image, label=index)


def _with_folders(members: list[Member]) -> ImageSet:
    """The images, classed by the first folder of their name below the folders that all names share.

    `UserError` where some images lie in such a folder and others do not.
    """
    images = [member.image for member in members]
    sound = [member.name.removeprefix("./") for member in members if not member.image.fault]
    root = _common_folder(sound)
    classes = ["" if member.image.fault else _class_folder(member.name, root) for member in members]
    loose = [name for name in sound if not _class_folder(name, root)]
    if loose and any(classes):
        raise UserError(
            f"Images {images[0].path!r} is ambiguous: it holds {loose[0]!r} beside images in the folder "
            f"{next(filter(None, classes))!r}. Either put every image into a class folder, or none."
        )
    return with_class_names(images, classes, "in no class folder")


def _common_folder(names: list[str]) -> str:
    """The longest folder path, with a slash at the end, that every name begins with; "" where there is none."""
    folders = [name.split("/")[:-1] for name in names]
    if not folders:
        return ""
    first, last = min(folders), max(folders)
    depth = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return "".join(f"{folder}/" for folder in first[:depth])


def _class_folder(name: str, root: str) -> str:
    folder, slash, _ = name.removeprefix("./").removeprefix(root).partition("/")
    return folder if slash else ""


def name_fault(name: str) -> str:
    """Why a member's name is refused, "" where it is not: a name must not lead out of the archive's folder."""
    return "a member's name may not be absolute, climb by '..' or hold a backslash" if UNSAFE_NAME.search(name) else ""


def label_text(data: bytes) -> str:
    """The text of a `.cls` member, without the blanks around it."""
    return data.decode("utf-8", "replace").strip()

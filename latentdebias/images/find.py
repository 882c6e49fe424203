"""Where images come from: the registry of image sources, and `find_images`, which asks them in turn.

A source of one's own is a frozen dataclass with the two methods of `ImageLister`, under `@IMAGE_SOURCES.register`.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

import braceexpand

from latentdebias.errors import UserError
from latentdebias.images.archives import list_archives
from latentdebias.images.folders import list_folder
from latentdebias.images.image_set import EXTENSIONS, NO_LABEL, ImageSet, SourceImage
from latentdebias.images.lists import list_csv, list_jsonl
from latentdebias.images.saved_datasets import is_saved_dataset, list_dataset
from latentdebias.images.tars import remote_tar_members, tar_members
from latentdebias.images.zips import zip_members
from latentdebias.registry import Registry
from latentdebias.remote import check_url

__all__ = ["IMAGE_SOURCES", "NO_LABEL", "ImageLister", "ImageSet", "SourceImage", "find_images"]

LEGAL = (
    "a directory with a folder per class, a directory of images, a .csv or .jsonl list, .tar or .zip archives (a file, "
    "a directory of them, or a pattern such as 'images/{000..009}.tar'; .tar also at https:// and s3:// addresses), or "
    "a folder that datasets' save_to_disk wrote"
)
ARCHIVES = (".tar", ".zip")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class ImageLister(Protocol):
    """An entry of `IMAGE_SOURCES`: one kind of place where images lie."""

    def recognises(self, source: str) -> bool:
        """Whether `source`, a path or an address as the user wrote it, is of this kind."""

    def list_images(self, source: str) -> ImageSet:
        """The images at `source` in a fixed order; `UserError` where they are missing, ambiguous or unreachable."""


IMAGE_SOURCES: Registry[ImageLister] = Registry("image source")


def find_images(source: str) -> ImageSet:
    """The images at `source`, a path or an address, as listed by the entry of `IMAGE_SOURCES` that recognises it.

    The entry registered last is asked first. Raises `UserError` where none recognises `source`, or what it names is
    missing, empty, ambiguous, unreachable, or an address of another kind (`pipe:`, ...).
    """
    lister = next((each for each in IMAGE_SOURCES.newest_first() if each.recognises(source)), None)
    if lister is None:
        raise UserError(f"Images {source!r}: no such directory or list. Legal here: {LEGAL}.")
    found = lister.list_images(source)
    if not found.images:
        raise UserError(f"Images {source!r}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).")
    return found


@IMAGE_SOURCES.register("folder")
@dataclass(frozen=True)
class Folder:
    """A directory with one folder per class, or of images without classes."""

    def recognises(self, source: str) -> bool:
        return Path(source).is_dir()

    def list_images(self, source: str) -> ImageSet:
        return list_folder(Path(source))


@IMAGE_SOURCES.register("csv")
@dataclass(frozen=True)
class CsvList:
    """A `.csv` list with the columns `path` and, optionally, `label`; a brace pattern names several."""

    def recognises(self, source: str) -> bool:
        return _is_file_name(source, ".csv")

    def list_images(self, source: str) -> ImageSet:
        return list_csv([Path(path) for path in _expanded(source)])


@IMAGE_SOURCES.register("jsonl")
@dataclass(frozen=True)
class JsonlList:
    """A `.jsonl` list, one object a line with the keys `path` and, optionally, `label`."""

    def recognises(self, source: str) -> bool:
        return _is_file_name(source, ".jsonl")

    def list_images(self, source: str) -> ImageSet:
        return list_jsonl([Path(path) for path in _expanded(source)])


@IMAGE_SOURCES.register("zip")
@dataclass(frozen=True)
class ZipArchives:
    """A `.zip`, a brace pattern of them, or a directory of them."""

    def recognises(self, source: str) -> bool:
        return _is_file_name(source, ".zip") or _holds(source, ".zip")

    def list_images(self, source: str) -> ImageSet:
        return list_archives(_archives(source, ".zip"), zip_members)


@IMAGE_SOURCES.register("tar")
@dataclass(frozen=True)
class TarArchives:
    """An uncompressed `.tar`, a brace pattern of them, or a directory of them."""

    def recognises(self, source: str) -> bool:
        return _is_file_name(source, ".tar") or _holds(source, ".tar")

    def list_images(self, source: str) -> ImageSet:
        return list_archives(_archives(source, ".tar"), tar_members)


@IMAGE_SOURCES.register("saved_dataset")
@dataclass(frozen=True)
class SavedDataset:
    """A folder that `save_to_disk` of Hugging Face `datasets` wrote."""

    def recognises(self, source: str) -> bool:
        return is_saved_dataset(Path(source))

    def list_images(self, source: str) -> ImageSet:
        return list_dataset(Path(source))


@IMAGE_SOURCES.register("address")
@dataclass(frozen=True)
class AddressedTars:
    """A `.tar`, or a brace pattern of them, at an address such as https://HOST/images/{000..009}.tar."""

    def recognises(self, source: str) -> bool:
        return ADDRESS.match(source) is not None

    def list_images(self, source: str) -> ImageSet:
        check_url(source)
        urls = _expanded(source)
        for url in urls:
            check_url(url)
            if PurePosixPath(urlsplit(url).path).suffix != ".tar":
                raise UserError(
                    f"Images {url!r}: at an address only .tar archives are read, not directories, lists or zips. "
                    f"Name the tars, as in 'https://HOST/images/{{000..009}}.tar', or copy the data here and pass "
                    f"{LEGAL}."
                )
        return list_archives(urls, remote_tar_members)


def _is_file_name(source: str, suffix: str) -> bool:
    return Path(source).suffix == suffix and not Path(source).is_dir()


def _holds(source: str, suffix: str) -> bool:
    return any(Path(source).glob(f"*{suffix}"))


def _archives(source: str, suffix: str) -> list[Path]:
    """The archives that `source` names; `UserError` for a directory that holds both tars and zips."""
    root = Path(source)
    if not root.is_dir():
        return [Path(path) for path in _expanded(source)]
    if all(_holds(source, each) for each in ARCHIVES):
        raise UserError(f"Images {str(root)!r} is ambiguous: it holds .tar and .zip archives. Pass '{root}/NAME.tar'.")
    return sorted(root.glob(f"*{suffix}"))


def _expanded(pattern: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"Images {pattern!r}: the braces do not match ({error}); write x/{{000..009}}.tar") from None

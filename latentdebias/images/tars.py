"""Images inside uncompressed tars, local or at an address, found by the tars' headers and read by position."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from latentdebias.errors import UserError
from latentdebias.images.archives import (
    LABEL_EXTENSION,
    MAX_IMAGE_BYTES,
    MAX_LABEL_TEXT,
    Member,
    label_text,
    name_fault,
)
from latentdebias.images.image_set import SourceImage
from latentdebias.remote import open_seekable, read_range

END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class RemoteImage(SourceImage):
    """A member of a tar at the address `path`."""

    def read(self) -> bytes:
        """The bytes of the image file; `UserError` where the address does not give them."""
        return read_range(self.path, self.offset, self.size)


def tar_members(archive: Path) -> Iterator[Member]:
    """The files in an uncompressed tar; `UserError` where `archive` is no such tar, or is cut short."""
    try:
        with archive.open("rb") as file:
            yield from _tar_members(file, SourceImage(archive.name, str(archive)))
    except OSError as error:
        raise _no_tar(str(archive), error) from None


def remote_tar_members(url: str) -> Iterator[Member]:
    """The files in an uncompressed tar at an address; `UserError` where that fails, or the tar is cut short."""
    with open_seekable(url) as file:
        yield from _tar_members(file, RemoteImage(PurePosixPath(urlsplit(url).path).name, url))


def _tar_members(file: BinaryIO, archive: SourceImage) -> Iterator[Member]:
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not info.isdir():
                    yield _tar_member(archive, tar, info)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:  # the latter three of broken numbers in it
        raise _no_tar(archive.path, error) from None
    file.seek(end)
    if file.read(len(END_OF_ARCHIVE)) != END_OF_ARCHIVE:
        raise UserError(
            f"Images {archive.path!r}: cut short or damaged, for no end mark follows its last readable member "
            f"(byte {end}). Copy it again."
        )


def _no_tar(path: str, error: Exception) -> UserError:
    return UserError(
        f"Images {path!r} cannot be read as an uncompressed tar ({error}). "
        f"Check the path, decompress it, or copy it again."
    )


def _tar_member(archive: SourceImage, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    plain = info.isreg() and not info.issparse()
    image = replace(
        archive,
        name=f"{archive.name}/{info.name}",
        offset=info.offset_data,
        size=info.size,
        fault=_tar_fault(info, plain),
    )
    is_label = plain and info.name.endswith(f".{LABEL_EXTENSION}")
    reader = tar.extractfile(info) if is_label else None
    return Member(info.name, image, label_text(reader.read(MAX_LABEL_TEXT)) if reader else "")


def _tar_fault(info: tarfile.TarInfo, plain: bool) -> str:
    if fault := name_fault(info.name):
        return fault
    if not plain:
        return "no plain file but a link, a device or a sparse one"
    return f"{info.size} bytes; legal here are up to {MAX_IMAGE_BYTES}" if info.size > MAX_IMAGE_BYTES else ""

"""Images inside zips, found by each zip's central directory and read by position."""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""The header before a zip member's bytes: its signature, and the lengths of the name and extra field that follow it."""
ENCRYPTED = 1


@dataclass(frozen=True)
class ZipImage(SourceImage):
    """A member of a zip, whose local header begins at byte `offset`.

    `size` is how many bytes are stored, deflated or not; `full_size` and `crc` are the length and the CRC-32 of the
    image file itself.
    """

    deflated: bool = False
    full_size: int = 0
    crc: int = 0

    def read(self) -> bytes:
        """The bytes of the image file; an error where their length or CRC-32 is not that in the zip's directory."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            if signature != LOCAL_SIGNATURE:
                raise ValueError("its header in the zip is damaged")
            file.seek(name_length + extra_length, 1)
            # At most what the file has: Python allocates what it is asked to read.
            data = file.read(min(self.size, os.fstat(file.fileno()).st_size))
        if self.deflated:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.full_size)
        if len(data) != self.full_size or zlib.crc32(data) != self.crc:
            raise ValueError("its bytes in the zip are damaged")
        return data


def zip_members(archive: Path) -> Iterator[Member]:
    """The files in a zip; `UserError` where `archive` is no zip, or is cut short."""
    try:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.filename.endswith("/"):
                    yield _zip_member(archive, info)
    except Exception as error:  # zipfile raises errors of many kinds for files that are no zips
        raise UserError(
            f"Images {str(archive)!r} cannot be read as a zip ({error}). Check the path, or copy it again."
        ) from None


def _zip_member(archive: Path, info: zipfile.ZipInfo) -> Member:
    image = ZipImage(
        f"{archive.name}/{info.filename}",
        str(archive),
        offset=info.header_offset,
        size=info.compress_size,
        fault=_zip_fault(info),
        deflated=info.compress_type == zipfile.ZIP_DEFLATED,
        full_size=info.file_size,
        crc=info.CRC,
    )
    is_label = info.filename.endswith(f".{LABEL_EXTENSION}") and info.file_size <= MAX_LABEL_TEXT and not image.fault
    return Member(info.filename, image, label_text(image.read()) if is_label else "")


def _zip_fault(info: zipfile.ZipInfo) -> str:
    if fault := name_fault(info.filename):
        return fault
    if stat.S_ISLNK(info.external_attr >> 16):
        return "no plain file but a link"
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {info.compress_type}; legal here are stored and deflated"
    if not 0 < info.file_size <= MAX_IMAGE_BYTES:
        return f"{info.file_size} bytes once inflated; legal here are 1 to {MAX_IMAGE_BYTES}"
    return ""

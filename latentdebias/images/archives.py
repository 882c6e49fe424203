"""Images inside tar and zip archives, found by the archives' headers and read by position: nothing is extracted."""

import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

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
from latentdebias.remote import open_seekable, read_range

Archive = TypeVar("Archive", Path, str)
PATIENCE = 3
"""Seconds without a progress bar."""
MAX_LABEL_TEXT = 32
LABEL_EXTENSION = "cls"
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)
MAX_IMAGE_BYTES = 2**30
UNSAFE_NAME = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.\.(/|$)")
LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip member: the signature, and the lengths of the name and of the extra field that follow."""
ENCRYPTED = 1


@dataclass(frozen=True)
class ZipImage(SourceImage):
    """A member of a zip: `offset` is that of its local header, `size` its bytes there, `full_size` once inflated."""

    deflated: bool = False
    full_size: int = 0
    crc: int = 0

    def read(self) -> bytes:
        """The bytes of the image file; an error where they are not those that the zip's directory promises."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            if signature != LOCAL_SIGNATURE:
                raise ValueError("its header in the zip is damaged")
            file.seek(name_length + extra_length, 1)
            data = file.read(self.size)
        if self.deflated:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.full_size)
        if len(data) != self.full_size or zlib.crc32(data) != self.crc:
            raise ValueError("its bytes in the zip are damaged")
        return data


@dataclass(frozen=True)
class RemoteImage(SourceImage):
    """A member of a tar at the address `path`."""

    def read(self) -> bytes:
        """The bytes of the image file; `UserError` where the address does not give them."""
        return read_range(self.path, self.offset, self.size)


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name there, where it is, and its text if it is a label."""

    name: str
    image: SourceImage
    text: str = ""


def list_archives(archives: list[Archive], members_of: Callable[[Archive], Iterator[Member]]) -> ImageSet:
    """The images of archives: WebDataset samples where any member is a `.cls`, else class folders or a flat list."""
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
    """The members, with a fault on those whose name has been before."""
    seen: set[str] = set()
    for member in members:
        fault = member.image.fault or ("two members of one name" if member.name in seen else "")
        seen.add(member.name)
        yield replace(member, image=replace(member.image, fault=fault))


def _webdataset_images(members: list[Member]) -> list[SourceImage]:
    """The images among `key.jpg` and `key.cls` members."""
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
    """Class folders, below the folders that hold everything; images that lie in no folder below those have no class."""
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
    """The folders, with a slash at the end, that every name begins with."""
    folders = [name.split("/")[:-1] for name in names]
    if not folders:
        return ""
    first, last = min(folders), max(folders)
    depth = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return "".join(f"{folder}/" for folder in first[:depth])


def _class_folder(name: str, root: str) -> str:
    folder, slash, _ = name.removeprefix("./").removeprefix(root).partition("/")
    return folder if slash else ""


def tar_members(archive: Path) -> Iterator[Member]:
    """The files in an uncompressed tar; `UserError` where it is none, or cut short."""
    try:
        with archive.open("rb") as file:
            yield from _tar_members(file, SourceImage(archive.name, str(archive)))
    except OSError as error:
        raise _no_tar(str(archive), error) from None


def remote_tar_members(url: str) -> Iterator[Member]:
    """As `tar_members`, at an address; `UserError` also where that does not answer."""
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
    except tarfile.TarError as error:
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
    return Member(info.name, image, _text(reader.read(MAX_LABEL_TEXT)) if reader else "")


def _tar_fault(info: tarfile.TarInfo, plain: bool) -> str:
    if fault := _name_fault(info.name):
        return fault
    if not plain:
        return "no plain file but a link, a device or a sparse one"
    return f"{info.size} bytes; legal here are up to {MAX_IMAGE_BYTES}" if info.size > MAX_IMAGE_BYTES else ""


def zip_members(archive: Path) -> Iterator[Member]:
    """The files that a zip's directory names; `UserError` where it is no zip, or cut short."""
    try:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    yield _zip_member(archive, info)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, struct.error) as error:
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
    return Member(info.filename, image, _text(image.read()) if is_label else "")


def _zip_fault(info: zipfile.ZipInfo) -> str:
    if fault := _name_fault(info.filename):
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


def _name_fault(name: str) -> str:
    return "a member's name may not be absolute, climb by '..' or hold a backslash" if UNSAFE_NAME.search(name) else ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()

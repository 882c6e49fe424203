"""Reading files at an address, a path or an http(s) or s3 URL, through fsspec; other schemes are refused."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import fsspec

from latentdebias.errors import UserError, command, legal_choices
from latentdebias.files import published

SCHEMES = ("file", "http", "https", "s3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
CHECK_SERVER = "that its server is up and answers requests for byte ranges; the same command then goes on"
READ_AHEAD = 1 << 20


def check_url(url: str) -> None:
    """Raise `UserError` unless `url` is a path or begins with one of `SCHEMES`; nothing is opened."""
    scheme = SCHEME.match(url)
    if "::" in url or (scheme and not (scheme[1] in SCHEMES and url.startswith(f"{scheme[1]}://"))):
        # `pipe:` would run a command, and `a::b` chains file systems.
        raise UserError(
            f"The address {url!r} is refused: it is no path, and begins with none of the schemes that are read. "
            f"{legal_choices(scheme[1] if scheme else url, SCHEMES)} Write it as https://HOST/PATH."
        )


@contextmanager
def open_url(url: str) -> Iterator[BinaryIO]:
    """A context with a stream of the bytes at `url`.

    Any failure while the stream is open, or while it is opened, is raised as a `UserError` that names `url`.
    """
    check_url(url)
    check = f"the set it belongs to with: {command('encode')} verify DIRECTORY, where it was made"
    with _read_errors(url, check), fsspec.open(url, "rb") as file:
        yield file


@contextmanager
def open_seekable(url: str) -> Iterator[BinaryIO]:
    """A context with a seekable file at `url`, meant for reading parts of it from front to back.

    It fetches `READ_AHEAD` bytes (1 MiB) in a request. Any failure is raised as a `UserError` that names `url`.
    """
    check_url(url)
    with _read_errors(url, CHECK_SERVER):
        file_system, path = fsspec.core.url_to_fs(url)
        with file_system.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead") as file:
            yield file


def read_range(url: str, offset: int, size: int) -> bytes:
    """The `size` bytes from byte `offset` on at `url`, in one request; `UserError` unless exactly so many come."""
    check_url(url)
    with _read_errors(url, CHECK_SERVER):
        # The file system is not kept between calls: fsspec itself caches it, and it may not be used after a fork.
        file_system, path = fsspec.core.url_to_fs(url)
        data: bytes = file_system.cat_file(path, start=offset, end=offset + size)
        if len(data) != size:
            raise EOFError(f"{len(data)} bytes came for the {size} from byte {offset} on")
    return data


@contextmanager
def _read_errors(url: str, check: str) -> Iterator[None]:
    """A context that turns any failure into a `UserError`, which names `url` and tells the user to check `check`."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{url} cannot be read: {error}. Install what it names with pip.") from None
    except Exception as error:  # each file system of fsspec has its own exceptions
        # fsspec calls a server that it cannot reach a file not found, and keeps the reason as the cause.
        reason = error.__cause__ or error
        raise UserError(
            f"{url} cannot be read ({type(reason).__name__}: {reason}). Check the address, and {check}."
        ) from None


def download(url: str, path: Path) -> None:
    """Copy the file at `url` to `path` completely or not at all; raises `UserError` where that fails."""
    with open_url(url) as source, published(path) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def member_url(folder: str, name: str) -> str:
    """The address of file `name` in the folder at `folder`."""
    return f"{folder.rstrip('/')}/{name}"

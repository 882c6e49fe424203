"""Reading files at an address, a path or an http(s) or s3 URL, through fsspec; other schemes are refused.

Files at an address are read in ranges of bytes, and a range counts only if all of it came. A request that failed for a
reason that may pass (a dropped connection, a stalled or overloaded server) is made again after each of `WAITS`.
"""

import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn

from latentdebias.errors import UserError, command, legal_choices, pip_install
from latentdebias.files import published

T = TypeVar("T")
SCHEMES = ("file", "http", "https", "s3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
READ_AHEAD = 1 << 20
"""Bytes fetched in one request when a file is read from front to back."""
DOWNLOADED_AT_ONCE = 1 << 24
"""Bytes fetched in one request when a file is copied."""
WAITS: tuple[float, ...] = (1, 2, 4, 8, 16)
"""Seconds to wait before each further try of a request to a host that has answered this process before."""
STALL_SECONDS = 60
"""Seconds without a byte from an http server after which a request has failed."""
REFUSALS = (FileNotFoundError, PermissionError, ImportError, NotImplementedError, ValueError, TypeError)
BUSY = (408, 425, 429)
"""HTTP status codes of requests that may succeed later, beside those from 500 on."""

# Older fsspec keeps, in a forked worker, an event loop whose thread is in the parent alone: a request would never end.
os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)

_answered: set[str] = set()
"""Hosts and buckets that have answered: a mistyped one is named at once, one that was there before is waited for."""


class NoRanges(UserError):
    """An http server does not answer requests for a range of bytes."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"{url} cannot be read ({what}): its server does not answer requests for byte ranges, as object stores do. "
            f"Serve the files with one that does, or copy them to a local folder."
        )


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
def open_seekable(url: str) -> Iterator[BinaryIO]:
    """A context with a seekable file at `url`, meant for reading parts of it from front to back.

    It fetches `READ_AHEAD` bytes (1 MiB) in a request. Any failure is raised as a `UserError` that names `url`.
    """
    check_url(url)
    with _read_errors(url):
        file: Any
        if _is_local(url):
            file_system, path = _file_system(url)
            file = file_system.open(path, "rb")
        else:
            file = io.BufferedReader(_RemoteFile(url, _size_of(url)), READ_AHEAD)
        with file:
            yield file


def read_range(url: str, offset: int, size: int) -> bytes:
    """The `size` bytes from byte `offset` on at `url`; `UserError` unless exactly so many come."""
    check_url(url)
    if not size:
        return b""

    def ask() -> bytes:
        file_system, path = _file_system(url)
        data: bytes = file_system.cat_file(path, start=offset, end=offset + size)
        what = f"{len(data)} bytes came for the {size} from byte {offset} on"
        if len(data) > size:
            raise NoRanges(url, what)
        if len(data) < size:
            raise EOFError(what)
        return data

    with _read_errors(url):
        return _again(url, ask)


def read_whole(url: str) -> bytes:
    """The bytes of the small file at `url`, fetched in one request; `UserError` where that fails."""
    return read_range(url, 0, _size_of(url))


def download(url: str, path: Path) -> None:
    """Copy the file at `url` to `path` completely or not at all; raises `UserError` where that fails.

    Where the server does not answer requests for byte ranges, the file is copied in one request, which is not made
    again when it fails.
    """
    with published(path) as target:
        try:
            target.writelines(_pieces(url))
        except NoRanges:
            target.seek(0)
            target.truncate()
            target.writelines(_stream(url))


def member_url(folder: str, name: str) -> str:
    """The address of file `name` in the folder at `folder`."""
    return f"{folder.rstrip('/')}/{name}"


class _RemoteFile(io.RawIOBase):
    """A seekable file of `size` bytes at an address; each read is one request for a range of bytes."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        buffer[:count] = read_range(self._url, self._position, count)
        self._position += count
        return count


def _file_system(url: str) -> tuple[Any, str]:
    # The file system is not kept between calls: fsspec itself caches it, and it may not be used after a fork.
    options: dict[str, Any] = {}
    if url.startswith("http"):
        from aiohttp import ClientTimeout

        # By default a request may take 5 minutes in all, which a large file at a slow server does not keep to.
        timeout = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        options["client_kwargs"] = {"timeout": timeout}
    return fsspec.core.url_to_fs(url, **options)


def _is_local(url: str) -> bool:
    return not SCHEME.match(url) or url.startswith("file:")


def _size_of(url: str) -> int:
    """The size in bytes of the file at `url`."""
    check_url(url)

    def ask() -> int:
        file_system, path = _file_system(url)
        size = file_system.info(path)["size"]
        if size is None:
            raise NoRanges(url, "the size of the file is not stated")
        return int(size)

    with _read_errors(url):
        return _again(url, ask)


def _pieces(url: str) -> Iterator[bytes]:
    size = _size_of(url)
    for offset in range(0, size, DOWNLOADED_AT_ONCE):
        yield read_range(url, offset, min(DOWNLOADED_AT_ONCE, size - offset))


def _stream(url: str) -> Iterator[bytes]:
    """The file at `url` in pieces, all in one request."""
    with _read_errors(url):
        file_system, path = _file_system(url)
        with file_system.open(path, "rb", block_size=0) as source:
            while piece := source.read(READ_AHEAD):
                yield piece


def _again(url: str, request: Callable[[], T]) -> T:
    """What `request` returns; after a failure that may pass it is made again, after each of `WAITS`.

    Only a host that has answered before is waited for. The last failure is raised as it is.
    """
    host = "" if _is_local(url) else urlsplit(url).netloc
    for wait in WAITS if host in _answered else ():
        try:
            return request()
        except Exception as error:
            if not _may_pass(_reason(error)):
                raise
            text = f"{url}: {_reason(error)!r}; trying again in {wait:g} s"
            print(text, file=sys.stderr, flush=True)
        time.sleep(wait)
    result = request()
    _answered.update({host} - {""})
    return result


def _reason(error: BaseException) -> BaseException:
    """fsspec calls a server that it cannot reach a file not found, and keeps the reason as the cause."""
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _may_pass(reason: BaseException) -> bool:
    status = getattr(reason, "status", None)  # of aiohttp
    if isinstance(response := getattr(reason, "response", None), dict):  # of botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int):
        return status >= 500 or status in BUSY
    return not isinstance(reason, REFUSALS)


@contextmanager
def _read_errors(url: str) -> Iterator[None]:
    """A context that turns any failure into a `UserError`, which names `url`."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{url} cannot be read: {error}. Install it with: {pip_install('s3')}") from None
    except Exception as error:  # each file system of fsspec has its own exceptions
        reason = _reason(error)
        raise UserError(
            f"{url} cannot be read ({type(reason).__name__}: {reason}). Check the address, and that its server is up "
            f"and answers requests for byte ranges; the same command then goes on. Whether a set is whole is checked "
            f"where it was made: {command('encode')} verify DIRECTORY"
        ) from None

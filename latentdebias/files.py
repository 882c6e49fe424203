"""Files: written completely or not at all (temporary name, fsync, rename), hashed, read as JSON, and locked."""

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import yaml

from latentdebias.errors import UserError

MOST_VALUES = 100_000
"""Values in a YAML file, far above any that a person writes: a few aliases of aliases can stand for billions."""


def publish(path: Path, data: bytes) -> None:
    """Write `data` to the file `path` completely or not at all; raises `UserError` where it cannot be written."""
    with published(path) as file:
        file.write(data)


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """A context with a binary file to write, which appears as `path` once the block has succeeded.

    If the block fails, `path` is what it was. A failed write raises `UserError`.
    """
    temporary = temporary_path(path)
    with write_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                rename_synced(file, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """A context with an empty folder `path`.new to fill, which replaces `path` once the block has succeeded.

    If the block fails, `path` is what it was. A failed write raises `UserError`.
    """
    fresh, old = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
    with write_errors(path):
        if old.exists() and not path.exists():
            old.rename(path)  # an earlier call was stopped between its two renames
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(parents=True)
            yield fresh
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            fresh.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """A file name in the folder of `path` that no other process uses: it contains the host name and the process id."""
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def rename_synced(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Rename `temporary`, which is open as `file`, to `path`, so that a power cut leaves the old file or the new one.

    The bytes are synced to disk before the rename, and the folder after it.
    """
    file.flush()
    os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder to disk, so that renames in it survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(path: Path) -> str:
    """The sha256 of the bytes of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The JSON object in a text; `ValueError` where it holds anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("too many brackets inside each other") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, and it holds {type(value).__name__}")
    return value


def parse_yaml(text: str) -> Any:
    """The value in a YAML text; `ValueError` where it is none, or its aliases expand to over `MOST_VALUES` values."""
    try:
        value = yaml.safe_load(text)
        size = _size(value, {})
    except Exception as error:  # PyYAML raises whatever a bad scalar makes Python raise
        raise ValueError(f"{error}") from None
    if size > MOST_VALUES:
        raise ValueError(f"its aliases expand to {size} values, and up to {MOST_VALUES} are read")
    return value


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values there are in `value`, each counted where it stands; `known` are those of each container."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # what a container that holds itself expands to
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known[id(value)]


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises `UserError`, which ends with the sentence `mend`, where the file is missing, cannot be read, or holds
    anything but one JSON object.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {mend}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). {mend}") from None


def wait_for_lock(path: Path) -> TextIO:
    """Wait until no other process locks the file `path`, lock it, and return it open for appending.

    A missing file is made. Closing the file releases the lock, and so does the end of the process, however it ends.
    """
    file = path.open("a+")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def try_lock(path: Path) -> TextIO | None:
    """Lock the file `path` without waiting and return it open for appending; None where another process locks it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def open_locked(path: Path) -> BinaryIO:
    """Make the file `path` (an old one is emptied), and return it open for writing, locked until it is closed.

    The lock keeps it from `remove_abandoned` in another process. A file system without locks gives none.
    """
    while True:
        file = path.open("w+b")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # another process took it for abandoned before it was locked


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove the files that were opened by `open_locked` in processes that have ended since."""
    for path in paths:
        with suppress(FileNotFoundError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:
                pass  # a file system without locks, where every such file is taken for abandoned
            path.unlink()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """A context that turns a failed write (disk full, no permission) into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Nothing half-written was left under that name; mend "
            f"the cause and run the same command again."
        ) from None


def check_output_file(path: Path) -> None:
    """Raise `UserError` unless a file `path` can be made, or replaced, in a folder that exists."""
    if path.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder. Name a file.")
    _check_folder(path, path.absolute().parent)


def check_output_folder(path: Path) -> None:
    """Raise `UserError` unless the folder `path` can be written to, or made with the folders above it."""
    _check_folder(path, next(above for above in (path.absolute(), *path.absolute().parents) if above.exists()))


def _check_folder(path: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"Cannot write {path}: there is no folder {folder}. Make it with: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write {path}: the folder {folder} is not writable. Choose another path.")

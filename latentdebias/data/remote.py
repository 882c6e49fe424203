"""Files of a shard set at an address: folders, http(s) and s3, opened through fsspec; every other scheme is refused."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import fsspec

from latentdebias.data.shards import MANIFEST, Manifest, read_manifest
from latentdebias.errors import UserError, legal_choices
from latentdebias.files import published

SCHEMES = ("file", "http", "https", "s3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
SHARD_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_url(url: str) -> None:
    """Raise `UserError` unless `url` is a path or begins with one of `SCHEMES`; nothing is opened."""
    scheme = SCHEME.match(url)
    if "::" in url or (scheme and not (scheme[1] in SCHEMES and url.startswith(f"{scheme[1]}://"))):
        # `pipe:` would run a command, and `a::b` chains file systems.
        raise UserError(
            f"The address {url!r} is refused: it is no path, and begins with none of the schemes that shards are read "
            f"from. {legal_choices(scheme[1] if scheme else url, SCHEMES)} Write it as https://HOST/FOLDER."
        )


@contextmanager
def open_url(url: str) -> Iterator[BinaryIO]:
    """A stream of the bytes at `url`; what fails while it is open, opening included, is a `UserError` with `url`."""
    check_url(url)
    try:
        with fsspec.open(url, "rb") as file:
            yield file
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{url} cannot be read: {error}. Install what it names with pip.") from None
    except Exception as error:  # each file system of fsspec has its own exceptions
        raise UserError(
            f"{url} cannot be read ({type(error).__name__}: {error}). Check the address, and the set it belongs to "
            f"with: python tools/encode.py verify DIRECTORY, where it was made."
        ) from None


def download(url: str, path: Path) -> None:
    """Copy the file at `url` to `path`, whole or not at all."""
    with open_url(url) as source, published(path) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def member_url(folder: str, name: str) -> str:
    """The address of file `name` in the folder at `folder`."""
    return f"{folder.rstrip('/')}/{name}"


def read_remote_manifest(url: str) -> Manifest:
    """The manifest of the set at `url`; `UserError` where it is missing or damaged, or names files elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        download(member_url(url, MANIFEST), Path(folder, MANIFEST))
        manifest = read_manifest(Path(folder))
    for shard in manifest.shards:
        if not SHARD_NAME.fullmatch(shard.name):
            raise UserError(
                f"The manifest at {url} is refused: it names a shard {shard.name!r}, and names hold letters, digits, "
                f"'-' and '_' alone. Use only sets from sources that you trust."
            )
    return manifest

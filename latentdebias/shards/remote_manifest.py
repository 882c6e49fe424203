"""Reads the manifest of a shard set at an address."""

import re
import tempfile
from pathlib import Path

from latentdebias.errors import UserError
from latentdebias.remote import download, member_url
from latentdebias.shards.format import MANIFEST, Manifest, read_manifest

SHARD_NAME = re.compile(r"[A-Za-z0-9_-]+")


def read_remote_manifest(url: str) -> Manifest:
    """The manifest of the set at `url`; `UserError` where it is missing, damaged, or names a shard by a path."""
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

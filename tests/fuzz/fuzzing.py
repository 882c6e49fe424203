"""Damages files at random from a seed, and watches what a reader raises, allocates, opens and writes."""

import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz_targets import Target

BOUND = 1 << 29
"""Bytes of address space that reading a file of some kilobytes may take."""
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**64 - 1]
WORDS = [b"\0", b"-1", b"1e999", b".nan", b".inf", b"[", b"{", b"*a", b"\xff\xfe", b"../", b"/", b"'", b'"', b"9" * 30]
WORDS += [b"!!timestamp x", b"!!int x", b"!!python/name:os.system", b"[" * 2000, b"null", b"\\u0000", b"\\ud800", b"1_"]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
RUNS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"}


class Escaped(BaseException):
    """A reader ran something, or wrote outside its folder; no handler of the reader's own catches it."""


class Watch:
    """An audit hook, which cannot be taken off again: it raises `Escaped` while `folder` is set."""

    def __init__(self) -> None:
        self.folder: str | None = None
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in RUNS:
            raise Escaped(f"{event} {arguments}")
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (writes or event in CHANGES) and isinstance(arguments[0], str | bytes | Path):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((f"{self.folder}{os.sep}", "/dev/")) and "__pycache__" not in path:
                raise Escaped(f"{event} {path}")


WATCH = Watch()


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """A context in which writes outside `folder` and new processes end in `Escaped`, and memory is bounded."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    WATCH.folder = os.path.realpath(folder)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BOUND, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        WATCH.folder = None


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` after one to four changes: bits, numbers, words, cuts, repeats and swaps."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        end = min(len(found), at + chance.choice([1, 2, 4, 8, 30, 200]))
        kind = chance.randrange(7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            width = chance.choice([1, 2, 4, 8])
            number = chance.choice(NUMBERS) % 2 ** (8 * width)
            found[at : at + width] = number.to_bytes(width, chance.choice(["little", "big"]))
        elif kind == 2:
            found[at:end] = chance.choice(WORDS)
        elif kind == 3:
            found[at:at] = chance.choice(WORDS)
        elif kind == 4:
            del found[at:end]
        elif kind == 5:
            found[at:at] = found[at:end] * chance.choice([1, 2, 50])
        else:
            del found[at:]
    return bytes(found)


def fuzz(target: Target, folder: Path, seconds: float, seed: int) -> int:
    """Read damaged files for `seconds`; returns how many. A failure names the seed of its file, and keeps it there."""
    for name, content in target.beside.items():
        (folder / name).write_bytes(content)
    path, end, count = folder / target.file, time.monotonic() + seconds, 0
    for data in target.sound:
        path.write_bytes(data)
        target.read(path)
    while time.monotonic() < end:
        chance = random.Random(f"{seed} {count}")
        path.write_bytes(damaged(chance.choice(target.sound), chance))
        try:
            with watched(folder):
                target.read(path)
        except target.refused:
            pass
        except BaseException as error:
            kept = path.with_name(f"failure-{seed}-{count}-{path.name}")
            path.rename(kept)
            raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
        count += 1
    return count

"""Commands in forks of this process, which have imported what a fresh process would take seconds to import."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from latentdebias.cli import start


class Fork:
    """`latentdebias NAME ARGUMENTS` in a process of its own, with the variables `environment`; may be killed."""

    def __init__(self, name: str, *arguments: object, **environment: str) -> None:
        self._output = Path(tempfile.mkdtemp())
        words = ["latentdebias", name, *map(str, arguments)]
        self.process = get_context("fork").Process(target=_run, args=(words, environment, self._output))
        self.process.start()

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until `reached()`; fails where the command ends before."""
        while not reached():
            assert self.process.is_alive(), self.err
            time.sleep(0.001)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.join()

    def end(self) -> int | None:
        """Wait for the command, and return its exit code."""
        self.process.join(120)
        return self.process.exitcode

    @property
    def out(self) -> str:
        return (self._output / "out").read_text()

    @property
    def err(self) -> str:
        return (self._output / "err").read_text()


def _run(words: list[str], environment: dict[str, str], output: Path) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), 1 if name == "out" else 2)
    # pytest has put its own objects in their place.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.update(environment)
    sys.argv = words
    start()

"""Commands and scripts in forks of one server process, which has imported what each would take seconds to import."""

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from latentdebias.cli import start
from latentdebias.distributed import LAUNCHER_VARIABLES

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torchvision", "timm", "diffusers", "latentdebias.commands.sample"])


class Fork:
    """`latentdebias NAME ARGUMENTS` in a process of its own, with the variables `environment`; may be killed."""

    def __init__(self, name: str, *arguments: object, **environment: str) -> None:
        self._output = Path(tempfile.mkdtemp())
        words = ["latentdebias", name, *map(str, arguments)]
        self.process = FORKS.Process(target=_run, args=(words, environment, self._output))
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
        self.process.join(200)
        return self.process.exitcode

    @property
    def out(self) -> str:
        return (self._output / "out").read_text()

    @property
    def err(self) -> str:
        return (self._output / "err").read_text()


class ScriptFork(Fork):
    """`python SCRIPT ARGUMENTS` in the folder `cwd`, in a process of its own."""

    def __init__(self, script: Path, *arguments: object, cwd: Path) -> None:
        self._output = Path(tempfile.mkdtemp())
        words = [str(script), *map(str, arguments)]
        self.process = FORKS.Process(target=_run_script, args=(words, cwd, self._output))
        self.process.start()


def _run(words: list[str], environment: dict[str, str], output: Path) -> None:
    _write_to(output)
    _forget_launcher()
    os.environ.update(environment)
    sys.argv = words
    start()


def _run_script(words: list[str], cwd: Path, output: Path) -> None:
    _write_to(output)
    os.chdir(cwd)
    _forget_launcher()
    sys.argv, sys.path[:0] = words, [str(Path(words[0]).parent)]
    runpy.run_path(words[0], run_name="__main__")


def _forget_launcher() -> None:
    """Drop what a process group of the tests' own process had exported before the server of the forks was started."""
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)


def _write_to(output: Path) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)

"""Runs of two ranks under a real launcher, to be hurt in mid-run; no process may be left of one."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from latentdebias import distributed

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SECONDS_TO_START = 120


def deepspeed() -> list[str]:
    return [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(distributed.free_port())]


def torchrun() -> list[str]:
    return [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]


def rows(run_dir: Path) -> list[str]:
    """The lines logged so far, one a step; a line that is being written is left out."""
    log = run_dir / "log.jsonl"
    return log.read_text().split("\n")[:-1] if log.exists() else []


def losses(run_dir: Path) -> dict[int, float]:
    """The losses logged so far, by step."""
    return {row["step"]: row["loss"] for row in map(json.loads, rows(run_dir))}


def checkpoints(run_dir: Path) -> list[int]:
    """The steps of the committed checkpoints."""
    return sorted(
        int(path.parent.name.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*/COMMIT.json")
    )


@dataclass
class Launched:
    """A launcher that runs, and everything it started."""

    run_dir: Path
    process: subprocess.Popen
    err: Path
    family: set[psutil.Process] = field(default_factory=set)

    @property
    def launcher(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def reach(self, step: int) -> None:
        """Wait until `step` is logged, and note which processes are there."""
        deadline = time.monotonic() + SECONDS_TO_START
        while max(losses(self.run_dir), default=0) < step:
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, f"step {step} was never reached: {self.err.read_text()}"
            time.sleep(0.02)
        self.note_family()

    def note_family(self) -> None:
        """Note which processes the launcher has started by now, for `rank` and `end`."""
        self.family = {self.launcher, *self.launcher.children(recursive=True)}

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank; its DataLoader workers have its environment too, and it as their parent."""
        ranks = [p for p in self.family if p.environ().get("RANK") == str(number)]
        [found] = [p for p in ranks if p.parent() not in ranks]
        return found

    def end(self, within: float) -> int:
        """Wait for the launcher and all it started; returns the launcher's exit code."""
        deadline = time.monotonic() + within
        code = self.process.wait(within)
        while left := [p for p in self.family if is_alive(p)]:
            assert time.monotonic() < deadline, f"left over: {left}"
            time.sleep(0.1)
        return code

    def kill(self) -> None:
        """Kill whatever is left."""
        # The number of a launcher that was waited for may be another process's by now.
        if self.process.poll() is None:
            self.family |= {self.launcher, *self.launcher.children(recursive=True)}
        for process in filter(is_alive, self.family):
            process.kill()
        self.process.wait()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

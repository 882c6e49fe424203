"""Seconds and memory of what runs in this process, with the variants of a comparison in turns."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Elapsed:
    """Seconds by the clock, and of CPU time of this process, all of its threads together."""

    wall: float
    cpu: float


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def elapsed(work: Callable[[], object], device: torch.device) -> Elapsed:
    """The time that `work` takes, what it gives the device included."""
    wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait_for(device)
    return Elapsed(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[Elapsed]]:
    """The times of each way, by name, one in each round.

    Every other round takes the ways in the reverse order, so that a machine which slows down or speeds up favours none.
    """
    times: dict[str, list[Elapsed]] = {name: [] for name in ways}
    for number in tqdm(range(rounds), desc="rounds", leave=False):
        names: Iterable[str] = reversed(list(ways)) if number % 2 else ways
        for name in names:
            times[name].append(elapsed(ways[name], device))
    return times


class PeakMemory:
    """The most memory held since `reset` beyond what was held when the object was made, in bytes.

    On a GPU that is memory which torch had allocated there; on a CPU the resident memory of the process, which is exact
    only in a process that has freed nothing large before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = (
            torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
        )

    def reset(self) -> None:
        """Forget the most that was held so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        # Linux: 5 sets the high-water mark of the process to what it holds now. Elsewhere the mark stays.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """The most that was held at once since `reset`."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        status = Path("/proc/self/status")
        if not status.exists():
            return psutil.Process().memory_info().rss - self._before
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 - self._before

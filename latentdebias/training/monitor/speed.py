"""How fast a run goes and what of its device it uses; only the host's clock is read, nothing waits for the device."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")


class WaitClock:
    """Adds up the seconds that a loop waits for the next item of what it iterates over."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each comes is counted."""
        start = time.perf_counter()
        for item in items:
            self.seconds += time.perf_counter() - start
            yield item
            start = time.perf_counter()


@dataclass(frozen=True)
class Workload:
    """The work of a step and the speed it is measured by: `peak_flops` is a second's, of all ranks together."""

    batch_size: int
    flops_per_image: int | None
    peak_flops: float


class Speedometer:
    """Speed, utilisation, memory and waiting since the last reading."""

    def __init__(self, workload: Workload, waited: WaitClock, device: torch.device, first_step: int) -> None:
        self.workload, self.waited, self.device = workload, waited, device
        self._start = time.perf_counter()
        self._last = (first_step, self._start, waited.seconds)

    def read(self, step: int) -> dict[str, float | None]:
        """The numbers up to `step`, by their names in the log.

        `mfu` is 3 forward FLOPs an image over the peak (PaLM, arXiv:2204.02311, appendix B: recomputation is not
        counted); `memory_gb` is this rank's, in 1e9 bytes: the most that torch had allocated on its GPU since the
        last reading, on a CPU what the process holds now; `data_wait` is the share of time spent waiting for batches.
        """
        last_step, last_time, last_waited = self._last
        now, waited = time.perf_counter(), self.waited.seconds
        self._last = (step, now, waited)
        elapsed = now - last_time
        steps_per_second = (step - last_step) / elapsed
        images_per_second = steps_per_second * self.workload.batch_size
        return {
            "steps_per_second": steps_per_second,
            "images_per_second": images_per_second,
            "mfu": self._utilisation(images_per_second),
            "memory_gb": self._memory() / 1e9,
            "data_wait": (waited - last_waited) / elapsed,
            "seconds": now - self._start,
        }

    def _utilisation(self, images_per_second: float) -> float | None:
        if self.workload.flops_per_image is None:
            return None
        return images_per_second * self.workload.flops_per_image / self.workload.peak_flops

    def _memory(self) -> int:
        if self.device.type != "cuda":
            return psutil.Process().memory_info().rss
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

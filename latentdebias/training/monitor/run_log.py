"""The log of a run and its progress bar, both on rank 0 only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentdebias.training.monitor.log_writers import LogWriter

# What the progress line shows of a record, where the record has it.
SHOWN = {
    "loss": "loss {:.4g}",
    "steps_per_second": "{:.3g} step/s",
    "images_per_second": "{:.0f} img/s",
    "mfu": "MFU {:.1%}",
    "memory_gb": "{:.1f} GB",
    "data_wait": "wait {:.1%}",
}


class RunLog:
    """Hands each record to all writers, and shows the last one of a training step on the progress bar."""

    def __init__(self, writers: Sequence[LogWriter], first_step: int, last_step: int) -> None:
        self._writers = writers
        self._bar = tqdm(total=last_step, initial=first_step, desc="train", unit="step", mininterval=1.0)

    def advance(self) -> None:
        """Move the progress bar one step."""
        self._bar.update()

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write(step, record)

    def write_image(self, name: str, step: int, image: Path) -> None:
        for writer in self._writers:
            writer.write_image(name, step, image)

    def show(self, record: Mapping[str, Any]) -> None:
        """Put a record on the progress line."""
        self._bar.set_postfix_str(
            ", ".join(form.format(record[name]) for name, form in SHOWN.items() if record.get(name) is not None),
            refresh=False,
        )

    def close(self) -> None:
        self._bar.close()
        for writer in self._writers:
            writer.close()

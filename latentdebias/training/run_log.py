"""What a run writes down: `log.jsonl`, TensorBoard, and the progress bar; on rank 0 only."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from latentdebias.files import publish

LOG = "log.jsonl"


class RunLog:
    """One line a logging step; a resumed run drops the lines that it is about to write again."""

    def __init__(self, run_dir: Path, first_step: int, last_step: int) -> None:
        self._path = run_dir / LOG
        self._drop_lines_after(first_step)
        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        self._bar = tqdm(total=last_step, initial=first_step, desc="train", unit="step", mininterval=1.0)

    def _drop_lines_after(self, step: int) -> None:
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if 0 <= _step_of(line) <= step]
            if kept != lines:
                publish(self._path, "".join(f"{line}\n" for line in kept).encode())

    def advance(self) -> None:
        self._bar.update()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write one record; TensorBoard gets its numbers."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._tensorboard.add_scalar(name, value, step)
        for i, value in enumerate(values.get("loss_by_t", [])):
            if value is not None:
                self._tensorboard.add_scalar(f"loss_by_t/{i}", value, step)
        self._bar.set_postfix_str(f"loss {values['loss'] or float('nan'):.4g}, {values['images_per_second']:.0f} img/s")

    def close(self) -> None:
        self._bar.close()
        self._tensorboard.close()


def _step_of(line: str) -> int:
    """The step of a log line; -1 for a line cut short by a kill."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1

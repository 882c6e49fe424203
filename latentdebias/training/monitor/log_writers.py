"""Where the numbers of a run go: a file of JSON lines, TensorBoard, Weights & Biases; each with the same names."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from latentdebias.errors import UserError, pip_install
from latentdebias.files import publish

LOG = "log.jsonl"
WANDB_RUN_ID = "wandb_run_id"


class LogWriter(Protocol):
    """One place that records go to."""

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Numbers by name after `step` updates; a list stands for `name/0`, `name/1`, ... None is no number."""

    def write_image(self, name: str, step: int, image: Path) -> None:
        """A picture that the run has written to the file `image`."""

    def close(self) -> None:
        """Write what is left; nothing comes after it."""


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under flat names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= {f"{name}/{i}": each for i, each in enumerate(value)} if isinstance(value, list) else {name: value}
    return {name: value for name, value in flat.items() if isinstance(value, int | float)}


class JsonLines:
    """One line a record in `path`; lines after `first_step`, which the run is about to write again, are dropped."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if 0 <= _step_of(line) <= first_step]
            if kept != lines:
                publish(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")

    def write_image(self, name: str, step: int, image: Path) -> None:
        """Pictures are files of their own."""

    def close(self) -> None:
        """Each line is on the disk already."""


class TensorBoard:
    """Events in `folder`; those after `first_step` are hidden."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._events = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self._events.add_scalar(name, value, step)

    def write_image(self, name: str, step: int, image: Path) -> None:
        self._events.add_image(name, np.asarray(Image.open(image)), step, dataformats="HWC")

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of the W&B project `project`; its id is kept in `run_dir`, so that a resumed run goes on in it."""

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        check_wandb()
        import wandb

        self._image = wandb.Image
        id_file = run_dir / WANDB_RUN_ID
        run_id = id_file.read_text().strip() if id_file.exists() else None
        self._run = wandb.init(
            project=project, id=run_id, resume="allow", name=run_dir.name, dir=run_dir, config=dict(config)
        )
        publish(id_file, f"{self._run.id}\n".encode())
        # W&B's own counter refuses the steps that a resumed run takes again.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        self._run.log({**scalars(record), "step": step})

    def write_image(self, name: str, step: int, image: Path) -> None:
        self._run.log({name: self._image(str(image)), "step": step})

    def close(self) -> None:
        self._run.finish()


def open_writers(
    run_dir: Path, first_step: int, wandb_project: str | None, config: Mapping[str, Any]
) -> list[LogWriter]:
    """The writers of a run that goes on from `first_step`."""
    writers: list[LogWriter] = [JsonLines(run_dir / LOG, first_step), TensorBoard(run_dir / "tensorboard", first_step)]
    if wandb_project is not None:
        writers.append(WeightsAndBiases(wandb_project, run_dir, config))
    return writers


def check_wandb() -> None:
    """Raise `UserError` where Weights & Biases is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"training.wandb_project is set, and Weights & Biases is not installed: {pip_install('wandb')}, or "
            "--set training.wandb_project=null"
        )


def _step_of(line: str) -> int:
    """The step of a log line; -1 for a line cut short by a kill."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1

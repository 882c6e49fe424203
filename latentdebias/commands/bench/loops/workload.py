"""What each loop of a comparison trains, and what a loop is."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from latentdebias.backbones.sized import SizedBackbone
from latentdebias.commands.bench.shards import NUM_CLASSES, write_random_shards
from latentdebias.config import RunConfig, load_config
from latentdebias.precision import Precision
from latentdebias.prepare import network_of
from latentdebias.training.engine import training_device

RunSteps = Callable[[int], object]
"""A function that trains a given number of steps."""

SAMPLES = 1024


@dataclass(frozen=True)
class Workload:
    """A model, a batch and random latents in `folder`, which every loop of a comparison trains on.

    `model` is a name or a YAML mapping as under `model:` of a run config; `batch_size` is that of all ranks together.
    """

    model: str
    batch_size: int
    precision: Precision
    workers: int
    folder: Path
    side: int = 32

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents."""
        return 4, self.side, self.side

    @property
    def shards(self) -> Path:
        """The folder of the latent shards."""
        return self.folder / "shards"

    @property
    def arrays(self) -> Path:
        """The folder of the same latents with one .npy file a sample."""
        return self.folder / "arrays"

    @property
    def device(self) -> torch.device:
        """The device that the loops train on."""
        return training_device()

    def write(self) -> None:
        """Write the random latents of both folders."""
        self.arrays.mkdir()
        samples = max(SAMPLES, 2 * self.batch_size)
        for index, moments in write_random_shards(self.shards, samples, self.latent_shape):
            np.save(self.arrays / f"{index}.npy", moments[: self.latent_shape[0]])

    def config(self, name: str, changes: tuple[str, ...] = ()) -> RunConfig:
        """The config of the run `name` with further `changes` of keys; it saves no checkpoint within the benchmark."""
        settings = {
            "run_dir": self.folder / name,
            "data.shards": self.shards,
            "data.workers": self.workers,
            "model": self.model,
            "training.batch_size": self.batch_size,
            "training.precision": self.precision,
            "training.steps": 10**6,
            "training.checkpoint_every": 10**6,
            # While another loop has its turn, this one makes no step.
            "training.hang_timeout": 0,
            "deepspeed.zero_optimization.stage": 0,
        }
        return load_config("base.yaml", [*(f"{key}={value}" for key, value in settings.items()), *changes])

    def network(self) -> SizedBackbone:
        """The network that all loops train."""
        return network_of(self.config("network"), self.latent_shape, NUM_CLASSES)

    def backbone(self) -> nn.Module:
        """A fresh network on the device."""
        with self.device:
            return self.network().build()

    def autocast(self) -> torch.autocast:
        """A block that computes in the precision of the comparison."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


Loop = Callable[[Workload], AbstractContextManager[RunSteps]]
"""A training loop: in its block the model is built, and the function that the block is given trains it."""


def usual_precision(named: Precision | None) -> Precision:
    """The precision that the user named, or else bf16 on a GPU and fp32 on a CPU."""
    return named or ("bf16" if torch.cuda.is_available() else "fp32")


@contextmanager
def written(model: str, batch_size: int, precision: Precision, workers: int, side: int = 32) -> Iterator[Workload]:
    """A workload whose latents lie in a temporary folder for the length of the block."""
    with TemporaryDirectory() as folder:
        workload = Workload(model, batch_size, precision, workers, Path(folder), side)
        workload.write()
        yield workload

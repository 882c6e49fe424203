"""Moving averages of the weights during training, shared out over the ranks as ZeRO shares the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from latentdebias.errors import UserError, legal_choices
from latentdebias.models.ema_profiles import beta, gamma_of, name_of_std
from latentdebias.registry import option

# The weights themselves, where the name of an average is asked for.
NONE = "none"


class Average(Protocol):
    """A moving average: after step t, counted from 1, average <- average + rate(t) (weights - average)."""

    @property
    def name(self) -> str:
        """The name in configs, checkpoints and files."""

    def rate(self, step: int) -> float:
        """The share of the way to the weights that the average takes after step number `step`."""


@dataclass(frozen=True)
class ConstantDecay:
    """The exponential moving average: rate = 1 - decay."""

    decay: float

    @property
    def name(self) -> str:
        return str(self.decay)

    def rate(self, step: int) -> float:
        return 1 - self.decay


class PowerFunction:
    """The power-function average of relative width `std`: rate = 1 - beta_gamma(t) (Karras et al. 2024, sec. 3.1)."""

    def __init__(self, std: float) -> None:
        self.name, self.gamma = name_of_std(std), gamma_of(std)

    def rate(self, step: int) -> float:
        return 1 - beta(self.gamma, step)


@dataclass(frozen=True, kw_only=True)
class EMAOptions:
    """The `ema` section: constant decays, relative widths of power-function averages, and steps between snapshots.

    Raises `UserError` where there is no average, one twice, or a width out of range.
    """

    decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = option((0.9999,), "constant decays")
    stds: tuple[float, ...] = option(
        (), "relative widths of power-function averages, 0.001 to 0.288, such as [0.05, 0.1]"
    )
    snapshot_every: NonNegativeInt = option(
        0, "steps between snapshots of the stds, for the command ema; 0: none", on_resume="free"
    )

    def __post_init__(self) -> None:
        names = self.names()
        if not names:
            raise UserError("a run keeps at least one average; for example --set ema.decays=[0.9999]")
        if len(set(names)) < len(names):
            raise UserError(f"each average is kept once, and these are named: {', '.join(names)}")
        if self.snapshot_every and not self.stds:
            raise UserError(
                "snapshots are of power-function averages, and ema.stds is empty; for example --set ema.stds=[0.05,0.1]"
            )

    def averages(self) -> list[Average]:
        """Every average of the run."""
        return [*map(ConstantDecay, self.decays), *map(PowerFunction, self.stds)]

    def names(self) -> list[str]:
        """The names of the averages, such as 0.9999 and std0.050, in the order of `averages`."""
        return [average.name for average in self.averages()]

    @property
    def first(self) -> str:
        """The average that is drawn and exported unless another is named."""
        return self.names()[0]

    def choose(self, name: str | None) -> str:
        """`name`, or `first` where it is None; `UserError` where the run does not keep it."""
        legal = [*self.names(), NONE]
        if name is not None and name not in legal:
            raise UserError(f"This run keeps no average {name!r}. {legal_choices(name, legal)}")
        return name or self.first


class PartitionedEMA:
    """Averages of this rank's own fp32 `partitions` (see `ZeroState`), by name; they start at the initial weights."""

    def __init__(self, partitions: list[Tensor], options: EMAOptions) -> None:
        self.partitions = partitions
        self._kept = options.averages()
        self.averages = {average.name: [p.detach().clone() for p in partitions] for average in self._kept}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Bring every average up to date after optimizer step number `step`, counted from 1."""
        count = len(self.partitions)
        averages = [tensor for average in self._kept for tensor in self.averages[average.name]]
        rates = [rate for average in self._kept for rate in [average.rate(step)] * count]
        torch._foreach_lerp_(averages, self.partitions * len(self._kept), rates)

    @contextmanager
    def swapped_in(self, name: str) -> Iterator[None]:
        """Within the block the partitions hold the average `name`; afterwards the weights again, bit for bit."""
        if name == NONE:
            yield
            return
        weights = [partition.detach().clone() for partition in self.partitions]
        self._write(self.averages[name])
        try:
            yield
        finally:
            self._write(weights)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.partitions, values)

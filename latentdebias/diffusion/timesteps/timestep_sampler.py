"""The contract of a timestep sampler: where along the schedule each row of the batch is trained."""

from abc import ABC, abstractmethod

from torch import Tensor

from latentdebias.diffusion.schedules import Schedule
from latentdebias.registry import Registry


class TimestepSampler(ABC):
    """A map from independent uniform numbers to positions on the schedule, 0 data to 1 noise.

    A timestep sampler is told each row's number in the global batch, so that it may spread rows evenly over all ranks.
    """

    @abstractmethod
    def positions(self, u: Tensor, row: Tensor, rows: int, schedule: Schedule) -> Tensor:
        """Positions `(B,)` in [0, 1] on `schedule`, from uniforms `u` `(B,)` in [0, 1).

        The rows have the numbers `row` `(B,)` in a global batch of `rows`.
        """


TIMESTEP_SAMPLERS: Registry[TimestepSampler] = Registry("timestep sampler")

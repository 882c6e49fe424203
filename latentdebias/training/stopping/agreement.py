"""Small messages that reach all ranks at the same step, without holding up the training."""

from collections.abc import Sequence

import torch

from latentdebias.process_groups import cpu_group


class Agreement:
    """The maximum over ranks of `size` small integers, exchanged on the CPU while the next step runs.

    Every rank makes and closes it, and calls `exchange`, equally often.
    """

    def __init__(self, size: int) -> None:
        self._group = cpu_group("agreement")
        self._values = torch.zeros(size, dtype=torch.int32)
        self._work: torch.distributed.Work | None = None

    def exchange(self, values: Sequence[int]) -> list[int]:
        """Send `values`, and return the maximum of those that the ranks sent at the call before; zeros at first."""
        agreed = self._received()
        self._values = torch.tensor(values, dtype=torch.int32)
        self._work = torch.distributed.all_reduce(
            self._values, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed

    def close(self) -> None:
        """Wait for the exchange under way; not after an error, which other ranks may not have."""
        self._received()

    def _received(self) -> list[int]:
        if self._work is not None:
            self._work.wait()
        return self._values.tolist()

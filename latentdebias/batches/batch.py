"""One rank's micro-batch: as it is read, and as it is trained on."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


class Tensors:
    """A dataclass whose fields are tensors, or None, that move together."""

    def to(self, device: torch.device) -> Self:
        """The same tensors on `device`, copied asynchronously from pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same tensors in page-locked memory, from which a GPU copies without the CPU waiting."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        changed = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class Batch(Tensors):
    """The B samples that one rank trains on in one forward and backward pass.

    `latents` and `eps` are float32 `(B, C, h, w)`: latents of unit scale, and the noise to add to them. `labels` are
    int64 `(B,)`, the null class where a label was dropped, and None for a set without classes. `u` is float32 `(B,)`,
    uniform in [0, 1), from which timesteps are drawn; `row` is int64 `(B,)`, the samples' rows in the global batch.
    """

    latents: Tensor
    labels: Tensor | None
    eps: Tensor
    u: Tensor
    row: Tensor


@dataclass(frozen=True)
class StoredBatch(Tensors):
    """The B samples of a `Batch` as shards store them, for which no noise was drawn yet.

    `stored` is `(B, *stored_shape)` in the dtype of the shards, and `position` int64 `(B,)` are the samples' positions
    in the run. The other fields are those of `Batch`.
    """

    stored: Tensor
    labels: Tensor | None
    u: Tensor
    row: Tensor
    position: Tensor

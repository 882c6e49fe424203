"""One rank's micro-batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
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

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`, copied asynchronously from pinned memory."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("latents", "eps", "u", "row")}
        return replace(self, labels=labels, **moved)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies without the CPU waiting."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return Batch(
            self.latents.pin_memory(), labels, self.eps.pin_memory(), self.u.pin_memory(), self.row.pin_memory()
        )

"""Additional terms of the loss, beside the weighted error; no weighting multiplies them, each has its own `scale`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from latentdebias.errors import UserError
from latentdebias.registry import Registry


class Term(ABC):
    """A term of the loss. `needs_pairs` says that it compares the two rows of each pair (0 and 1, 2 and 3, ...)."""

    needs_pairs: ClassVar[bool] = False

    @abstractmethod
    def value(self, prediction: Tensor, target: Tensor, other_target: Tensor | None) -> Tensor:
        """The term, scaled, from prediction and target `(B, C, ...)`: `(B,)`.

        `other_target` is the target at the same t of the other row's sample in the pair; None unless `needs_pairs`.
        """


TERMS: Registry[Term] = Registry("loss term")


def check_pairs(terms: Iterable[Term], rows: int) -> None:
    """Raise `UserError` where one of `terms` compares pairs of rows, and a batch has an odd number of them."""
    if rows % 2 and any(term.needs_pairs for term in terms):
        raise UserError(
            f"A term of the loss compares pairs of samples, and each rank's batch has {rows}; make "
            f"training.micro_batch_size (or training.batch_size / ranks) even, or leave it out of diffusion.terms."
        )


def of_neighbours(rows: Tensor) -> Tensor:
    """Rows `(B, ...)` with the two of each pair exchanged: 1, 0, 3, 2, ...; B is even."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


@TERMS.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(Term):
    """1 - cos of the angle between prediction and target, over the channels of each position.

    LightningDiT's direction loss (Yao et al. 2025, arXiv:2501.01423), mean over positions.
    """

    scale: PositiveFloat = 1.0

    def value(self, prediction: Tensor, target: Tensor, other_target: Tensor | None) -> Tensor:
        return self.scale * (1 - F.cosine_similarity(prediction, target, dim=1)).flatten(1).mean(dim=1)


@TERMS.register("contrastive")
@dataclass(frozen=True, kw_only=True)
class Contrastive(Term):
    """-scale |prediction - other target|^2, mean over elements, which keeps the flows of samples apart.

    Contrastive flow matching (Stoica et al. 2025, arXiv:2506.05350). The other target is that of the neighbour in
    the global batch, so it is the same on any number of ranks.
    """

    scale: PositiveFloat = 0.05
    needs_pairs: ClassVar[bool] = True

    def value(self, prediction: Tensor, target: Tensor, other_target: Tensor | None) -> Tensor:
        assert other_target is not None
        return -self.scale * ((prediction - other_target) ** 2).flatten(1).mean(dim=1)

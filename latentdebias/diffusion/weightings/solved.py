"""A weighting that is solved while training: the Pareto weights of Min-SNR's section 3.3."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting


@WEIGHTINGS.register("pareto")
@dataclass(frozen=True, kw_only=True)
class Pareto(Weighting):
    """A weight on x0 for each of `bins` equal bins of the schedule, solved from the bins' gradients (Min-SNR, eq. 11).

    Training solves them anew after every `every` updates, from the batch that comes next, by Frank-Wolfe or UGD
    (eq. 12, 13), and multiplies the weight 1 that stands here by them (`Diffusion.set_bin_weights`). Their mean is 1.
    `regularization` is lambda over the median squared gradient norm. Outside training the weight is 1.
    """

    space: str = "x0"
    every: PositiveInt = 1000
    bins: Annotated[int, Field(ge=2, le=1000)] = 10
    solver: Literal["frank_wolfe", "ugd"] = "ugd"
    regularization: PositiveFloat = 0.1

    def weight(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.alpha)

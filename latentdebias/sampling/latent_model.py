"""A trained model between noise and latents, ready to be drawn from."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from latentdebias.sampling.denoiser import Observe
from latentdebias.sampling.draw_options import DrawOptions
from latentdebias.sampling.guided import Guided
from latentdebias.sampling.latent_sampler import LatentSampler
from latentdebias.sampling.network import ModelFacts, Network


@dataclass(frozen=True)
class LatentModel:
    """A network that denoises latents of shape (C, h, w) of so many classes; 0 classes are unconditional.

    `weaker` is the network of another model of the same latents, which guides this one (autoguidance).
    """

    network: Network
    latent_shape: tuple[int, int, int]
    num_classes: int
    weaker: Network | None = None

    @property
    def facts(self) -> ModelFacts:
        """What `check_draw` asks about the model."""
        return ModelFacts(self.network.diffusion, self.latent_shape[0], self.num_classes, self.weaker is not None)

    def sampler(self, options: DrawOptions, observe: Observe | None = None) -> LatentSampler:
        """The model under the guidance and precision of `options`."""
        guided = Guided(self.network, options.guidance, self.num_classes, self.weaker, options.precision)
        return LatentSampler(guided, self.network.diffusion, self.latent_shape, observe)

    def compiled(self) -> "LatentModel":
        """The same model with its networks under `torch.compile`.

        Every batch size gets kernels of its own, so that what a batch becomes does not depend on those before it.
        """
        return replace(self, network=_compiled(self.network), weaker=self.weaker and _compiled(self.weaker))


def _compiled(network: Network) -> Network:
    return replace(network, backbone=cast(nn.Module, torch.compile(network.backbone, dynamic=False)))

"""`diffusers.DiTTransformer2DModel` with the time frequencies that DiT was published and trained with."""

import functools
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

# A pipeline looks for the base class of a component in the component's own module.
__all__ = ["ModelMixin", "PublishedDiTTransformer2DModel"]


class PublishedDiTTransformer2DModel(DiTTransformer2DModel):
    """A `DiTTransformer2DModel` whose time embedding has the frequencies 10000^(-i / 128), 0 <= i < 128.

    diffusers' own class has 10000^(-i / 127), which no weights can make up for. Both classes have the same parameters
    and config.
    """

    # diffusers reads the names of the config's entries from this signature, so it must be that of its own class.
    @functools.wraps(DiTTransformer2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for block in self.transformer_blocks:
            embedding: Any = block.norm1
            embedding.emb.time_proj.downscale_freq_shift = 0

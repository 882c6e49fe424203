"""`diffusers.DiTTransformer2DModel` with the time frequencies that DiT was published and trained with."""

from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

# A pipeline looks for the base class of a component in the component's own module.
__all__ = ["ModelMixin", "PublishedDiTTransformer2DModel"]


class PublishedDiTTransformer2DModel(DiTTransformer2DModel):
    """A `DiTTransformer2DModel` whose sinusoid of time has the frequencies 10000^(-i / 128), i < 128.

    diffusers' own has 10000^(-i / 127), which no weights can make up for. The two have the same parameters and config.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = None,
        num_layers: int = 28,
        sample_size: int = 32,
        patch_size: int = 2,
        num_embeds_ada_norm: int = 1000,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            sample_size=sample_size,
            patch_size=patch_size,
            num_embeds_ada_norm=num_embeds_ada_norm,
            norm_eps=norm_eps,
        )
        blocks: Any = self.transformer_blocks
        for block in blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0

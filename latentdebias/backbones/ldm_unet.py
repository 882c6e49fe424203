"""LDM's UNet (Rombach et al. 2022) with cross-attention to the class, on `diffusers.UNet2DConditionModel`."""

from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from latentdebias.backbones.embeddings import labels_or_null
from latentdebias.backbones.spec import BACKBONES, BackboneSpec, check_latents, register_with_timm
from latentdebias.backbones.unet import NORM_GROUPS, Multipliers, as_convolved, levels, start_at_zero

DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


class LDMUNet(nn.Module):
    """A `diffusers.UNet2DConditionModel`, called `model(z, t, y)` (shapes: `BackboneSpec`).

    Each class has one learned vector, to which the cross-attention attends. An unconditional network has only the
    vector of the null class.
    """

    def __init__(self, unet: Any, num_classes: int) -> None:
        super().__init__()
        self.unet, self.num_classes = unet, num_classes
        self.img_size, self.in_chans = unet.config.sample_size, unet.config.in_channels
        self.class_embedding = nn.Embedding(num_classes + 1, unet.config.cross_attention_dim)
        start_at_zero(unet, ("conv2", "proj_out", "conv_out"))

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of each level, in the order in which they run."""
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        context = self.class_embedding(labels_or_null(y, z, self.num_classes))[:, None]
        return self.unet(as_convolved(z), t, encoder_hidden_states=context, return_dict=False)[0]


@BACKBONES.register("ldm_unet")
@dataclass(frozen=True, kw_only=True)
class LDMUNetSpec(BackboneSpec):
    """LDM's UNet; the defaults are LDM-8 for ImageNet, 395M parameters, which Min-SNR trains on 32x32x4 latents.

    The fields mean the same as in `UNetSpec`; `context_width` is the width of the class vector.
    """

    channels: PositiveInt = 256
    multipliers: Multipliers = (1, 2, 4)
    res_blocks: PositiveInt = 2
    attention_sides: tuple[PositiveInt, ...] = (32, 16, 8)
    head_width: PositiveInt = 32
    context_width: PositiveInt = 512

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> LDMUNet:
        from diffusers import UNet2DConditionModel

        widths, attention = levels(img_size, self.channels, self.multipliers, self.attention_sides, self.head_width)
        unet = UNet2DConditionModel(
            sample_size=img_size,
            in_channels=in_chans,
            out_channels=out_chans or in_chans,
            block_out_channels=widths,
            layers_per_block=self.res_blocks,
            down_block_types=tuple(DOWN_BLOCKS[here] for here in attention),
            up_block_types=tuple(UP_BLOCKS[here] for here in reversed(attention)),
            # Despite its name, diffusers reads this as the number of heads.
            attention_head_dim=tuple(width // self.head_width for width in widths),
            cross_attention_dim=self.context_width,
            norm_num_groups=NORM_GROUPS,
        )
        return LDMUNet(unet, num_classes)


register_with_timm("ldm_unet")

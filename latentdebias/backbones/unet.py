"""ADM's UNet (Dhariwal & Nichol 2021), on `diffusers.UNet2DModel`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from latentdebias.backbones.embeddings import labels_or_null
from latentdebias.backbones.spec import BACKBONES, BackboneSpec, check_latents, register_with_timm
from latentdebias.errors import UserError

Multipliers = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

NORM_GROUPS = 32

# Keys: whether the level has attention, and `UNetSpec.resampling`.
DOWN_BLOCKS = {
    (True, "resnet"): "AttnDownBlock2D",
    (True, "conv"): "AttnDownBlock2D",
    (False, "resnet"): "ResnetDownsampleBlock2D",
    (False, "conv"): "DownBlock2D",
}
UP_BLOCKS = {
    (True, "resnet"): "AttnUpBlock2D",
    (True, "conv"): "AttnUpBlock2D",
    (False, "resnet"): "ResnetUpsampleBlock2D",
    (False, "conv"): "UpBlock2D",
}
TIME_SHIFTS = {"scale_shift": "scale_shift", "add": "default"}


class UNet(nn.Module):
    """A `diffusers.UNet2DModel`, called `model(z, t, y)` (shapes: `BackboneSpec`)."""

    def __init__(self, unet: Any, num_classes: int) -> None:
        super().__init__()
        self.unet, self.num_classes = unet, num_classes
        self.img_size, self.in_chans = unet.config.sample_size, unet.config.in_channels
        start_at_zero(unet, ("conv2", "to_out.0", "conv_out"))

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of each level, in the order in which they run."""
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        labels = labels_or_null(y, z, self.num_classes) if self.num_classes else None
        return self.unet(as_convolved(z), t, class_labels=labels, return_dict=False)[0]


def as_convolved(z: Tensor) -> Tensor:
    """z `(B, C, H, W)` in the memory order of cuDNN's bf16 convolutions, channels last, if these are used; else z."""
    if z.is_cuda and torch.is_autocast_enabled("cuda"):
        return z.contiguous(memory_format=torch.channels_last)
    return z


def start_at_zero(unet: nn.Module, names: tuple[str, ...]) -> None:
    """Zero the layers whose names end in `names`, which end the residual branches; ADM does so, diffusers does not."""
    for name, module in unet.named_modules():
        if name.endswith(names) and isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def attention_levels(img_size: int, levels: int, attention_sides: Sequence[int]) -> list[bool]:
    """For each of `levels` levels, whether its side is in `attention_sides`; each level has half the side before.

    Raises `UserError` where `img_size` cannot be halved that often, or no level has one of the attention sides.
    """
    if img_size % 2 ** (levels - 1):
        raise UserError(
            f"Latents of side {img_size} cannot be halved {levels - 1} times, as {levels} multipliers ask; leave some "
            f"multipliers out, or use latents whose side is a multiple of {2 ** (levels - 1)}."
        )
    sides = [img_size // 2**level for level in range(levels)]
    for side in attention_sides:
        if side not in sides:
            raise UserError(f"attention_sides names {side}, and the levels have sides {sides}; choose among those.")
    return [side in attention_sides for side in sides]


def levels(
    img_size: int, channels: int, multipliers: Sequence[int], attention_sides: Sequence[int], head_width: int
) -> tuple[tuple[int, ...], list[bool]]:
    """The channels of each level and whether it has attention; `UserError` where sides or channels do not fit."""
    attention = attention_levels(img_size, len(multipliers), attention_sides)
    widths = tuple(channels * multiplier for multiplier in multipliers)
    check_channels(widths, attention, head_width)
    return widths, attention


def check_channels(widths: Sequence[int], attention: Sequence[bool], head_width: int) -> None:
    """Raise `UserError` unless 32 divides each level's channels, and `head_width` those of levels with attention."""
    for width in widths:
        if width % NORM_GROUPS:
            raise UserError(
                f"channels and multipliers make a level of {width} channels, which group norms in {NORM_GROUPS} groups "
                f"cannot share evenly; choose channels that are a multiple of {NORM_GROUPS}."
            )
    # The middle block, as wide as the last level, always has attention.
    for width, here in zip((*widths, widths[-1]), (*attention, True), strict=True):
        if here and width % head_width:
            raise UserError(f"head_width {head_width} does not divide {width} channels; choose one that does.")


@BACKBONES.register("unet")
@dataclass(frozen=True, kw_only=True)
class UNetSpec(BackboneSpec):
    """ADM's UNet, of one level per multiplier.

    A level has `channels` times its multiplier channels, `res_blocks` residual blocks (one more in the decoder), and
    half the side of the level before. Levels whose side (in latent pixels) is in `attention_sides` have attention in
    heads of `head_width` channels; the middle block always has attention. `time_shift` scale_shift is ADM's adaptive
    group norm, add sums the time embedding into the features. `resampling` between levels is by a residual block
    (resnet) or a convolution.
    """

    channels: PositiveInt
    multipliers: Multipliers
    res_blocks: PositiveInt
    attention_sides: tuple[PositiveInt, ...]
    head_width: PositiveInt = 64
    time_shift: Literal["scale_shift", "add"] = "scale_shift"
    resampling: Literal["resnet", "conv"] = "resnet"
    dropout: NonNegativeFloat = 0.0

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> UNet:
        from diffusers import UNet2DModel

        widths, attention = levels(img_size, self.channels, self.multipliers, self.attention_sides, self.head_width)
        unet = UNet2DModel(
            sample_size=img_size,
            in_channels=in_chans,
            out_channels=out_chans or in_chans,
            block_out_channels=widths,
            layers_per_block=self.res_blocks,
            down_block_types=tuple(DOWN_BLOCKS[here, self.resampling] for here in attention),
            up_block_types=tuple(UP_BLOCKS[here, self.resampling] for here in reversed(attention)),
            downsample_type=self.resampling,
            upsample_type=self.resampling,
            attention_head_dim=self.head_width,
            norm_num_groups=NORM_GROUPS,
            # With None, diffusers drops the norm before attention where `time_shift` is scale_shift.
            attn_norm_num_groups=NORM_GROUPS,
            resnet_time_scale_shift=TIME_SHIFTS[self.time_shift],
            num_class_embeds=num_classes + 1 if num_classes else None,
            dropout=self.dropout,
        )
        return UNet(unet, num_classes)


# The Debias paper's network for images of 256 pixels.
BACKBONES.preset(
    "unet_adm_small", of="unet", channels=128, multipliers=(1, 1, 2, 2, 4, 4), res_blocks=1, attention_sides=(16,)
)
# ADM's networks for images of 64 and of 256 pixels; Min-SNR trains the one for 64.
BACKBONES.preset(
    "unet_adm_64",
    of="unet",
    channels=192,
    multipliers=(1, 2, 3, 4),
    res_blocks=3,
    attention_sides=(32, 16, 8),
    dropout=0.1,
)
BACKBONES.preset(
    "unet_adm_256",
    of="unet",
    channels=256,
    multipliers=(1, 1, 2, 2, 4, 4),
    res_blocks=2,
    attention_sides=(32, 16, 8),
)
# Min-SNR's ablation (appendix C.1), for latents of side 32: 4 heads on 384 channels are 96 wide.
BACKBONES.preset(
    "unet_min_snr",
    of="unet",
    channels=192,
    multipliers=(1, 2, 2, 2),
    res_blocks=3,
    attention_sides=(16, 8),
    head_width=96,
)
for preset in ("unet_adm_small", "unet_adm_64", "unet_adm_256", "unet_min_snr"):
    register_with_timm(preset)

"""U-ViT: a ViT over [class, time, patches] with long skip connections (Bao et al. 2023)."""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from latentdebias.backbones.embeddings import class_tokens, sinusoid, unpatchify
from latentdebias.backbones.spec import (
    BACKBONES,
    BackboneSpec,
    check_heads,
    check_latents,
    check_patches,
    register_with_timm,
)
from latentdebias.errors import UserError


class UViTBlock(Block):
    """A pre-norm transformer block without biases for queries, keys and values, and with norms of eps 1e-5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, norm_layer=nn.LayerNorm)


class SkipBlock(UViTBlock):
    """A block that concatenates its input with a shallow block's output, then projects it (U-ViT, figure 2a)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Tokens x and skip, each `(B, N, D)` -> tokens `(B, N, D)`."""
        return super().forward(self.skip_linear(torch.cat([x, skip], dim=-1)))


class UViT(nn.Module):
    """The U-ViT network, called `model(z, t, y)` (shapes: `BackboneSpec`). Parameter names are the published ones."""

    def __init__(self, spec: "UViTSpec", img_size: int, in_chans: int, num_classes: int, out_chans: int) -> None:
        super().__init__()
        width, heads, patch_size, shallow = spec.width, spec.heads, spec.patch_size, spec.depth // 2
        self.img_size, self.in_chans, self.num_classes, self.patch_size = img_size, in_chans, num_classes, patch_size
        self.grid_size, self.num_condition_tokens = img_size // patch_size, 2 if num_classes else 1
        self.width = width
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, width)
        self.label_emb = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_condition_tokens + self.grid_size**2, width))
        self.in_blocks = nn.ModuleList(UViTBlock(width, heads) for _ in range(shallow))
        self.mid_block = UViTBlock(width, heads)
        self.out_blocks = nn.ModuleList(SkipBlock(width, heads) for _ in range(shallow))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, patch_size**2 * out_chans)
        self.final_layer = nn.Conv2d(out_chans, out_chans, 3, padding=1) if spec.final_conv else nn.Identity()
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks, in the order in which they run."""
        return [*self.in_blocks, self.mid_block, *self.out_blocks]

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        tokens = [*class_tokens(self.label_emb, y, z, self.num_classes), sinusoid(t, self.width).to(z.dtype)]
        x = torch.cat([torch.stack(tokens, dim=1), self.patch_embed(z)], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        patches = self.decoder_pred(self.norm(x))[:, self.num_condition_tokens :]
        return self.final_layer(unpatchify(patches, self.patch_size, self.grid_size))


@BACKBONES.register("uvit")
@dataclass(frozen=True, kw_only=True)
class UViTSpec(BackboneSpec):
    """A U-ViT of any odd depth; with `final_conv` a 3x3 convolution follows the output patches."""

    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch_size: PositiveInt = 2
    final_conv: bool = True

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> UViT:
        check_patches(img_size, self.patch_size)
        check_heads(self.width, self.heads)
        if self.depth % 2 == 0:
            raise UserError(
                f"depth {self.depth} leaves U-ViT no middle block between as many shallow as deep ones; choose an odd "
                f"depth, such as {self.depth + 1}."
            )
        if self.width % 2:
            raise UserError(f"width {self.width} is odd, and the sinusoid of time needs an even one.")
        return UViT(self, img_size, in_chans, num_classes, out_chans or in_chans)


# U-ViT, table 1; the published H has no final convolution.
SIZES = {"s": (512, 13, 8, True), "m": (768, 17, 12, True), "l": (1024, 21, 16, True), "h": (1152, 29, 16, False)}
for size, (width, depth, heads, final_conv) in SIZES.items():
    for patch_size in (2, 4):
        preset, shape = f"uvit_{size}_patch{patch_size}", {"width": width, "depth": depth, "heads": heads}
        BACKBONES.preset(preset, of="uvit", patch_size=patch_size, final_conv=final_conv, **shape)
        register_with_timm(preset)

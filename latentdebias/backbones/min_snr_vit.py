"""Min-SNR's vanilla ViT: pre-norm blocks over [time, class, patches], no final norm (Hang et al. 2023, table 6)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import PositiveInt
from timm.layers import PatchEmbed
from timm.models.beit import Block
from torch import Tensor, nn

from latentdebias.backbones.embeddings import TIME_EMBEDDINGS, TimeEmbedding, class_tokens, unpatchify
from latentdebias.backbones.routing import NO_ROUTING, Router, Routing
from latentdebias.backbones.spec import (
    BACKBONES,
    BackboneSpec,
    check_heads,
    check_latents,
    check_patches,
    register_with_timm,
)


class MinSNRViT(nn.Module):
    """Min-SNR's ViT, called `model(z, t, y)` (shapes: `BackboneSpec`). Parameter names are the published ones.

    Blocks are BEiT's (biases for queries and values, none for keys), with exact GELU and norms of eps 1e-6.
    """

    def __init__(self, spec: "MinSNRViTSpec", img_size: int, in_chans: int, num_classes: int, out_chans: int) -> None:
        super().__init__()
        width, patch_size = spec.width, spec.patch_size
        self.img_size, self.in_chans, self.num_classes, self.patch_size = img_size, in_chans, num_classes, patch_size
        self.grid_size, self.num_condition_tokens = img_size // patch_size, 2 if num_classes else 1
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, width)
        self.time_embedding = TIME_EMBEDDINGS[spec.time_embedding](width)
        self.class_embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_condition_tokens + self.grid_size**2, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(width, spec.heads, qkv_bias=True, norm_layer=norm) for _ in range(spec.depth))
        self.router = Router(spec.routing, spec.depth)
        self.linear_projection = nn.Linear(width, patch_size**2 * out_chans)
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialise as the published code: BEiT's scaling by depth, small output weights, embeddings from N(0, 1)."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in (*self.blocks.modules(), self.linear_projection):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.linear_projection.weight.mul_(0.001)
            for name, module in self.blocks.named_modules():
                if name.endswith(("attn.proj", "mlp.fc2")):
                    layer = int(name.split(".")[0]) + 1
                    module.weight.div_(math.sqrt(2 * layer))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        tokens = [self.time_embedding(t), *class_tokens(self.class_embedding, y, z, self.num_classes)]
        x = torch.cat([torch.stack(tokens, dim=1), self.patch_embed(z)], dim=1) + self.pos_embed
        ropes = [None] * len(self.blocks)
        x = self.router.through(self.blocks, x, self.grid_size**2, ropes, lambda block, x, rope: block(x))
        patches = self.linear_projection(x[:, self.num_condition_tokens :])
        return unpatchify(patches, self.patch_size, self.grid_size)


@BACKBONES.register("min_snr_vit")
@dataclass(frozen=True, kw_only=True)
class MinSNRViTSpec(BackboneSpec):
    """Min-SNR's ViT of any size; `time_embedding` table is the published network's, with 4000 rows.

    `routing` lets patches skip blocks in training, see `Routing`.
    """

    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch_size: PositiveInt = 2
    time_embedding: TimeEmbedding = "table"
    routing: Routing = NO_ROUTING

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> MinSNRViT:
        check_patches(img_size, self.patch_size)
        check_heads(self.width, self.heads)
        return MinSNRViT(self, img_size, in_chans, num_classes, out_chans or in_chans)


# Min-SNR prints 6 heads for the small network (table 6), which do not divide its width of 512; 8 do.
SIZES = {
    "min_snr_vit_s": (512, 13, 8),
    "min_snr_vit_b": (768, 12, 12),
    "min_snr_vit_l": (1024, 21, 16),
    "min_snr_vit_xl": (1152, 28, 16),
}
LONG_NAMES = {
    "min_snr_vit_s": "diffusion_vit_small",
    "min_snr_vit_b": "diffusion_vit_base",
    "min_snr_vit_l": "diffusion_vit_large",
    "min_snr_vit_xl": "diffusion_vit_xl",
}
for name, (width, depth, heads) in SIZES.items():
    for patch_size in (2, 4, 8):
        for preset in (f"{name}_patch{patch_size}", f"{LONG_NAMES[name]}_patch{patch_size}"):
            BACKBONES.preset(preset, of="min_snr_vit", width=width, depth=depth, heads=heads, patch_size=patch_size)
            register_with_timm(preset)

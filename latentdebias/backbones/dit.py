"""DiT: a transformer whose blocks are modulated by time and class, with adaLN-Zero (Peebles & Xie 2022)."""

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from timm.layers import Mlp, PatchEmbed, build_sincos2d_pos_embed
from timm.layers.attention import Attention
from torch import Tensor, nn

from latentdebias.backbones.embeddings import LabelEmbedding, SinusoidTime, unpatchify
from latentdebias.backbones.protocol import BACKBONES, BackboneSpec, check_heads, check_patches, register_with_timm
from latentdebias.errors import UserError


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with shift and scale `(B, D)` the same for every token of x `(B, N, D)`."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class TanhGELU(nn.GELU):
    """The tanh approximation, with which DiT was trained."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


def norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the conditioning (DiT, figure 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=TanhGELU)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x `(B, N, D)`, condition `(B, D)` -> `(B, N, D)`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches `(B, N, p p C)`."""

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = norm(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out_features)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """`model(z, t, y)`; see `BackboneSpec` for the shapes. Parameter names are those of the published checkpoints."""

    def __init__(
        self,
        spec: "DiTSpec",
        img_size: int,
        in_chans: int,
        num_classes: int,
        out_chans: int,
    ) -> None:
        super().__init__()
        width, patch_size = spec.width, spec.patch_size
        self.img_size, self.in_chans, self.num_classes, self.patch_size = img_size, in_chans, num_classes, patch_size
        self.grid_size = img_size // patch_size
        self.x_embedder = PatchEmbed(img_size, patch_size, in_chans, width)
        positions = build_sincos2d_pos_embed([self.grid_size] * 2, width)[None]
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.t_embedder = SinusoidTime(width)
        self.y_embedder = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(DiTBlock(width, spec.heads, spec.mlp_ratio) for _ in range(spec.depth))
        self.final_layer = FinalLayer(width, patch_size**2 * out_chans)
        self._init_weights()

    def _init_weights(self) -> None:
        projection = self.x_embedder.proj
        nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if name.startswith("blocks"):
                    nn.init.xavier_uniform_(module.weight)
                if "adaLN_modulation" in name or name.startswith("final_layer"):
                    nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.x_embedder(z) + self.pos_embed
        condition = self.t_embedder(t)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(y, len(z))
        for block in self.blocks:
            x = block(x, condition)
        return unpatchify(self.final_layer(x, condition), self.patch_size, self.grid_size)


@BACKBONES.register("dit")
@dataclass(frozen=True, kw_only=True)
class DiTSpec(BackboneSpec):
    """A DiT of any size."""

    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch_size: PositiveInt = 2
    mlp_ratio: PositiveFloat = 4.0

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> DiT:
        check_patches(img_size, self.patch_size)
        check_heads(self.width, self.heads)
        if self.width % 4:
            raise UserError(f"width {self.width} is not a multiple of 4, which sine-cosine positions need.")
        return DiT(self, img_size, in_chans, num_classes, out_chans or in_chans)


SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
for size, (width, depth, heads) in SIZES.items():
    for patch_size in (2, 4, 8):
        preset = f"dit_{size}_patch{patch_size}"
        BACKBONES.preset(preset, of="dit", width=width, depth=depth, heads=heads, patch_size=patch_size)
        register_with_timm(preset)

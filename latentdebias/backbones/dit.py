"""DiT: a transformer whose blocks are modulated by time and class, with adaLN-Zero (Peebles & Xie 2022).

Options beyond the original DiT are the parts of LightningDiT (Yao et al. 2025) and register tokens (Darcet et al.
2024). The defaults give the original DiT.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from timm.layers import Mlp, PatchEmbed, RmsNormFp32, RotaryEmbeddingCat, SwiGLU, build_sincos2d_pos_embed
from timm.layers.attention import AttentionRope
from torch import Tensor, nn

from latentdebias.backbones.embeddings import LabelEmbedding, SinusoidTime, labels_or_null, unpatchify
from latentdebias.backbones.routing import NO_ROUTING, Router, Routing
from latentdebias.backbones.spec import (
    BACKBONES,
    BackboneSpec,
    check_heads,
    check_latents,
    check_patches,
    register_with_timm,
)
from latentdebias.errors import UserError


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift for tokens x `(B, N, D)`; shift and scale `(B, D)` are the same for all N tokens."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def sincos_positions(grid_size: int, width: int) -> Tensor:
    """DiT's fixed position embedding `(1, N, D)`: sines and cosines of the column, then of the row."""
    by_axis = build_sincos2d_pos_embed([grid_size] * 2, width).unflatten(1, (2, 2, width // 4))
    return by_axis.transpose(1, 2).flip(1).flatten(1)[None]


class TanhGELU(nn.GELU):
    """GELU in its tanh approximation, with which DiT was trained."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


def swiglu(width: int, hidden: int) -> SwiGLU:
    """SwiGLU (Shazeer 2020) of 2/3 `hidden` units: its three matrices have as many weights as an MLP's two."""
    return SwiGLU(width, 2 * hidden // 3)


# The norms have no weights of their own, because adaLN scales and shifts their output.
NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "layer": partial(nn.LayerNorm, elementwise_affine=False),
    "rms": partial(RmsNormFp32, affine=False),
}
MLPS: dict[str, Callable[[int, int], nn.Module]] = {"gelu": partial(Mlp, act_layer=TanhGELU), "swiglu": swiglu}
NORM_EPS = 1e-6
QK_NORMS: dict[str, Any] = {"none": None, "layer": nn.LayerNorm, "rms": RmsNormFp32}
POSITIONS = {"sincos": {"absolute"}, "rope": {"rotary"}, "sincos_rope": {"absolute", "rotary"}}


class DiTBlock(nn.Module):
    """A transformer block whose attention and MLP are shifted, scaled and gated by the conditioning (DiT, figure 3)."""

    def __init__(self, spec: "DiTSpec") -> None:
        super().__init__()
        width, qk_norm = spec.width, QK_NORMS[spec.qk_norm]
        self.norm1 = NORMS[spec.norm](width, NORM_EPS)
        self.norm2 = NORMS[spec.norm](width, spec.mlp_norm_eps)
        self.attn = AttentionRope(
            width,
            num_heads=spec.heads,
            num_prefix_tokens=spec.registers,
            qk_norm=qk_norm is not None,
            norm_layer=qk_norm,
        )
        self.mlp = MLPS[spec.mlp](width, int(width * spec.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, rope: Tensor | None) -> Tensor:
        """Tokens x `(B, N, D)`, condition `(B, D)`, rope `(patches, 2 D / heads)` or None -> tokens `(B, N, D)`.

        A rope `(B, 1, patches, 2 D / heads)` has other patches for each sample.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """DiT's last layer: a modulated norm, then a projection of each token to a patch `(B, N, p p C)`."""

    def __init__(self, spec: "DiTSpec", out_chans: int) -> None:
        super().__init__()
        self.norm_final = NORMS[spec.norm](spec.width, NORM_EPS)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(spec.width, 2 * spec.width))
        self.linear = nn.Linear(spec.width, spec.patch_size**2 * out_chans)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """The DiT network, called `model(z, t, y)` (shapes: `BackboneSpec`). Parameter names are the published ones."""

    def __init__(self, spec: "DiTSpec", img_size: int, in_chans: int, num_classes: int, out_chans: int) -> None:
        super().__init__()
        width, patch_size, positions = spec.width, spec.patch_size, POSITIONS[spec.positions]
        self.img_size, self.in_chans, self.num_classes, self.patch_size = img_size, in_chans, num_classes, patch_size
        self.grid_size, self.num_registers = img_size // patch_size, spec.registers
        grid = [self.grid_size] * 2
        self.x_embedder = PatchEmbed(img_size, patch_size, in_chans, width)
        self.pos_embed: nn.Parameter | None = None
        if "absolute" in positions:
            self.pos_embed = nn.Parameter(sincos_positions(self.grid_size, width), requires_grad=False)
        self.rope: RotaryEmbeddingCat | None = None
        if "rotary" in positions:
            self.rope = RotaryEmbeddingCat(width // spec.heads, in_pixels=False, feat_shape=grid)
        self.register_tokens: nn.Parameter | None = None
        if spec.registers:
            self.register_tokens = nn.Parameter(0.02 * torch.randn(1, spec.registers, width))
        self.t_embedder = SinusoidTime(width, spec.freq_shift)
        self.y_embedder = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(DiTBlock(spec) for _ in range(spec.depth))
        self.router = Router(spec.routing, spec.depth)
        self.final_layer = FinalLayer(spec, out_chans)
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
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        x = self._tokens(z)
        rope = None if self.rope is None else self.rope.get_embed()
        condition = self.t_embedder(t)
        if self.y_embedder is not None:
            condition = condition + self.y_embedder(labels_or_null(y, z, self.num_classes))
        ropes = [rope] * len(self.blocks)
        x = self.router.through(
            self.blocks, x, self.grid_size**2, ropes, lambda block, x, rope: block(x, condition, rope)
        )
        patches = self.final_layer(x[:, self.num_registers :], condition)
        return unpatchify(patches, self.patch_size, self.grid_size)

    def _tokens(self, z: Tensor) -> Tensor:
        x = self.x_embedder(z)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.register_tokens is not None:
            x = torch.cat([self.register_tokens.expand(len(z), -1, -1), x], dim=1)
        return x


@BACKBONES.register("dit")
@dataclass(frozen=True, kw_only=True)
class DiTSpec(BackboneSpec):
    """A DiT of any size.

    `norm`, `mlp`, `positions` and `qk_norm` choose the parts. RoPE is axial, on integer grid coordinates, as in EVA-02
    and LightningDiT. LightningDiT is norm rms (there with weights, which adaLN's scale makes redundant), mlp swiglu and
    positions sincos_rope. `registers` is the number of learned tokens that are added to the patches; they have no
    position, and their output is dropped. `routing` lets patches skip blocks in training, see `Routing`. `freq_shift`
    (see `sinusoid`) 1 and `mlp_norm_eps` 1e-5 reproduce diffusers' `DiTTransformer2DModel`.
    """

    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch_size: PositiveInt = 2
    mlp_ratio: PositiveFloat = 4.0
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    positions: Literal["sincos", "rope", "sincos_rope"] = "sincos"
    qk_norm: Literal["none", "layer", "rms"] = "none"
    registers: NonNegativeInt = 0
    routing: Routing = NO_ROUTING
    freq_shift: Literal[0, 1] = 0
    mlp_norm_eps: PositiveFloat = NORM_EPS

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> DiT:
        check_patches(img_size, self.patch_size)
        check_heads(self.width, self.heads)
        if self.width % 4:
            raise UserError(f"width {self.width} is not a multiple of 4, which sine-cosine positions need.")
        if "rotary" in POSITIONS[self.positions] and self.width // self.heads % 4:
            raise UserError(
                f"positions {self.positions!r} needs heads whose width is a multiple of 4, and width {self.width} over "
                f"heads {self.heads} is {self.width // self.heads}; change heads or width, or set positions: sincos."
            )
        return DiT(self, img_size, in_chans, num_classes, out_chans or in_chans)


SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
for size, (width, depth, heads) in SIZES.items():
    for patch_size in (2, 4, 8):
        preset = f"dit_{size}_patch{patch_size}"
        BACKBONES.preset(preset, of="dit", width=width, depth=depth, heads=heads, patch_size=patch_size)
        register_with_timm(preset)

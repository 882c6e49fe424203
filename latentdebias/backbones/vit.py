"""Any timm ViT as a denoiser: time and class are two additional tokens (Min-SNR, section 4.1)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import PositiveInt
from timm.layers.attention import AttentionRope
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from latentdebias.backbones.embeddings import (
    TIME_EMBEDDINGS,
    LabelEmbedding,
    TimeEmbedding,
    class_tokens,
    unpatchify,
)
from latentdebias.backbones.routing import NO_ROUTING, Router, Routing
from latentdebias.backbones.spec import BACKBONES, BackboneSpec, check_latents, check_patches
from latentdebias.errors import UserError, legal_choices

TIMM_FAMILIES = ("vision_transformer", "deit", "eva")


class TokenViT(nn.Module):
    """A timm `VisionTransformer` or `Eva`, called `model(z, t, y)` (shapes: `BackboneSpec`).

    The tokens are [time, class, the ViT's own prefix tokens, patches]; only the patches' outputs are used.
    """

    def __init__(
        self,
        vit: VisionTransformer | Eva,
        num_classes: int,
        out_chans: int,
        time_embedding: TimeEmbedding,
        routing: Routing,
    ) -> None:
        super().__init__()
        width = vit.embed_dim
        self.num_classes, self.img_size = num_classes, vit.patch_embed.img_size[0]
        self.in_chans: int = vit.patch_embed.proj.in_channels
        self.grid_size, self.patch_size = vit.patch_embed.grid_size[0], vit.patch_embed.patch_size[0]
        self.vit = _without_head(vit)
        self.t_embedder = TIME_EMBEDDINGS[time_embedding](width)
        self.y_embedder = LabelEmbedding(num_classes, width) if num_classes else None
        self.num_condition_tokens = 2 if num_classes else 1
        self.condition_pos_embed = nn.Parameter(torch.empty(1, self.num_condition_tokens, width))
        self.router = Router(routing, len(vit.blocks))
        self.head = nn.Linear(width, self.patch_size**2 * out_chans)
        nn.init.trunc_normal_(self.condition_pos_embed, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        _skip_rotary(self.vit, self.num_condition_tokens)

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks, in the order in which they run."""
        return list(self.vit.blocks)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """z `(B, in_chans, H, W)`, t `(B,)`, labels y `(B,)` or None -> the prediction `(B, out_chans, H, W)`."""
        check_latents(z, self.in_chans, self.img_size)
        embedded = self.vit._pos_embed(self.vit.patch_embed(z))
        x, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens = [self.t_embedder(t), *class_tokens(self.y_embedder, y, z, self.num_classes)]
        x = torch.cat([torch.stack(tokens, dim=1) + self.condition_pos_embed, self.vit.norm_pre(x)], dim=1)
        x = self.router.through(self.blocks, x, self.grid_size**2, self._rotary_by_block(rotary), _run_block)
        patches = self.vit.norm(x)[:, -(self.grid_size**2) :]
        return unpatchify(self.head(patches), self.patch_size, self.grid_size)

    def _rotary_by_block(self, rotary: Tensor | None) -> list[Tensor | None]:
        # Eva's mixed rotary embedding has a slice for each block; its axial one is shared by all blocks.
        if rotary is not None and self.vit.rope_mixed:
            return list(rotary)
        return [rotary] * len(self.vit.blocks)


def _run_block(block: nn.Module, x: Tensor, rope: Tensor | None) -> Tensor:
    return block(x) if rope is None else block(x, rope=rope)


def _without_head(vit: VisionTransformer | Eva) -> VisionTransformer | Eva:
    """The ViT ending with its final norm over tokens: later layers are removed, since they would never be trained."""
    if isinstance(vit.norm, nn.Identity):
        vit.norm = vit.fc_norm
    for unused in ("fc_norm", "attn_pool", "head"):
        setattr(vit, unused, nn.Identity())
    return vit


def _skip_rotary(vit: VisionTransformer | Eva, tokens: int) -> None:
    """Exempt `tokens` additional prefix tokens from the rotary embedding, which is for patches only."""
    for module in vit.blocks.modules():
        if isinstance(module, EvaAttention | AttentionRope):
            module.num_prefix_tokens += tokens


@BACKBONES.register("vit")
@dataclass(frozen=True, kw_only=True)
class TimmViT(BackboneSpec):
    """Any timm model of the VisionTransformer or Eva family, by its timm name.

    `pretrained` starts from timm's weights, resampled to this patch size and these channels. They are downloaded from
    the hub, or read from `weights_file` where the machine has no network. `routing`: see `Routing`.
    """

    timm_name: str
    patch_size: PositiveInt = 2
    pretrained: bool = False
    weights_file: str | None = None
    time_embedding: TimeEmbedding = "sinusoid"
    routing: Routing = NO_ROUTING

    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> TokenViT:
        check_patches(img_size, self.patch_size)
        self._check_name()
        vit: Any = timm.create_model(
            self.timm_name,
            pretrained=self.pretrained,
            pretrained_cfg_overlay={"file": self.weights_file} if self.weights_file else None,
            img_size=img_size,
            patch_size=self.patch_size,
            in_chans=in_chans,
            num_classes=0,
        )
        return TokenViT(vit, num_classes, out_chans or in_chans, self.time_embedding, self.routing)

    def without_pretrained(self) -> "TimmViT":
        return replace(self, pretrained=False, weights_file=None)

    def _check_name(self) -> None:
        if self.weights_file and not Path(self.weights_file).is_file():
            raise UserError(f"weights_file {self.weights_file!r} does not exist; name a file, or leave it out.")
        architecture = self.timm_name.split(".")[0]
        if not timm.is_model(architecture):
            raise UserError(f"timm has no model {self.timm_name!r}. {legal_choices(architecture, _family_names())}")
        if architecture not in _family_names():
            raise UserError(
                f"timm's {self.timm_name!r} is not of the VisionTransformer and Eva families, which model 'vit' takes: "
                f"vit_*, deit3_*, eva02_*, *_dinov3, *_rope_*."
            )


def _family_names() -> list[str]:
    return [name for family in TIMM_FAMILIES for name in timm.list_models(module=family)]

"""What a backbone is: `model(z, t, y) -> y_hat`, built from a spec that the YAML names."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import timm.models
from torch import Tensor, nn

from latentdebias.errors import UserError
from latentdebias.registry import Registry


class BackboneSpec(ABC):
    """A backbone's options, without the shapes that the data decides.

    The module it builds is called as `model(z, t, y)`: latents `(B, in_chans, H, W)`, times `(B,)` as
    `Diffusion.model_time` gives them, labels `(B,)` int64 with `num_classes` as the null class, or None for it
    throughout. It returns `(B, out_chans, H, W)`, and raises `UserError` for latents of another shape than it was
    built for. Its attribute `blocks` lists the repeated blocks, in the order in which they run.
    """

    @abstractmethod
    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> nn.Module:
        """The network for latents of side `img_size`; 0 classes is unconditional; out_chans defaults to in_chans."""

    def without_pretrained(self) -> "BackboneSpec":
        """The same network without a download of initial weights, as a trained model is rebuilt."""
        return self


Precision = Literal["fp32", "bf16"]
"""What a backbone computes in; bf16 is autocast over fp32 weights."""

BACKBONES: Registry[BackboneSpec] = Registry("model")


def check_patches(img_size: int, patch_size: int) -> None:
    """Raise `UserError` unless patches tile the latent."""
    if img_size % patch_size:
        raise UserError(
            f"Patches of {patch_size} do not tile latents of side {img_size}; choose a patch size that divides it."
        )


def check_heads(width: int, heads: int) -> None:
    """Raise `UserError` unless the heads share the width evenly."""
    if width % heads:
        raise UserError(f"heads {heads} do not divide width {width}; choose a number of heads that does.")


def check_latents(z: Tensor, in_chans: int, img_size: int) -> None:
    """Raise `UserError` unless z is `(B, in_chans, img_size, img_size)`."""
    built_for, given = (in_chans, img_size, img_size), tuple(z.shape[1:])
    if given != built_for:
        raise UserError(
            f"The network was built for latents of shape {built_for} and got {given}; build it for that shape "
            f"(img_size, in_chans), or pass latents of the shape it was built for."
        )


def register_with_timm(name: str) -> None:
    """Make `timm.create_model(name, img_size=, in_chans=, num_classes=)` build the registered backbone `name`."""

    def create(
        pretrained: bool = False,
        img_size: int = 32,
        in_chans: int = 4,
        num_classes: int = 1000,
        out_chans: int | None = None,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
    ) -> nn.Module:
        if pretrained:
            raise UserError(f"There are no pretrained weights for {name!r}; call create_model with pretrained=False.")
        return BACKBONES.build(name).build(img_size, in_chans, num_classes, out_chans)

    create.__name__ = name
    entrypoint: Callable[..., nn.Module] = create
    timm.models.register_model(entrypoint)

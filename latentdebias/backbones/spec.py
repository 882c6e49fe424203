"""The contract of a backbone: a spec, named in the YAML, builds a module that is called `model(z, t, y)`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import timm.models
from torch import Tensor, nn

from latentdebias.errors import UserError
from latentdebias.registry import Registry


class BackboneSpec(ABC):
    """A backbone's options, without the shapes that the data decides.

    The module that `build` returns is called as `model(z, t, y)`: latents z `(B, in_chans, H, W)`, times t `(B,)` as
    `Diffusion.model_time` gives them, labels y `(B,)` int64, in which `num_classes` is the null class; y None means the
    null class for the whole batch. The module returns `(B, out_chans, H, W)`, and raises `UserError` for latents of
    another shape than it was built for. Its attribute `blocks` lists the repeated blocks in the order they run in.
    """

    @abstractmethod
    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> nn.Module:
        """The network for latents `(in_chans, img_size, img_size)`.

        `num_classes` 0 makes it unconditional; `out_chans` None means `in_chans`.
        """

    def without_pretrained(self) -> "BackboneSpec":
        """The same spec without pretrained weights, from which a trained model is rebuilt without a download."""
        return self


BACKBONES: Registry[BackboneSpec] = Registry("model")


def check_patches(img_size: int, patch_size: int) -> None:
    """Raise `UserError` unless `patch_size` divides the latents' side `img_size`."""
    if img_size % patch_size:
        raise UserError(
            f"Patches of {patch_size} do not tile latents of side {img_size}; choose a patch size that divides it."
        )


def check_heads(width: int, heads: int) -> None:
    """Raise `UserError` unless `heads` divides `width`."""
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
    """Make `timm.create_model(name, img_size=, in_chans=, num_classes=)` build the backbone registered as `name`."""

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

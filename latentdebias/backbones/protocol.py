"""What a backbone is: `model(z, t, y) -> y_hat`, built from a spec that the YAML names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import timm.models
from torch import nn

from latentdebias.errors import UserError
from latentdebias.registry import Registry


class BackboneSpec(ABC):
    """A backbone's options, without the shapes that the data decides.

    The module it builds is called as `model(z, t, y)`: latents `(B, in_chans, H, W)`, times `(B,)` as
    `Diffusion.model_time` gives them, labels `(B,)` int64 with `num_classes` as the null class, or None for it
    throughout. It returns `(B, out_chans, H, W)`. Its `blocks`, a ModuleList, are the repeated blocks that are
    checkpointed and compiled one by one; a network without that attribute has those that `repeated_blocks` finds.
    """

    @abstractmethod
    def build(self, img_size: int, in_chans: int, num_classes: int, out_chans: int | None = None) -> nn.Module:
        """The network for latents of side `img_size`; 0 classes is unconditional; out_chans defaults to in_chans."""

    def without_pretrained(self) -> "BackboneSpec":
        """The same network without a download of initial weights, as a trained model is rebuilt."""
        return self


BACKBONES: Registry[BackboneSpec] = Registry("model")


def repeated_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The `blocks` of a backbone; without such an attribute, the members of its outermost ModuleLists.

    Raises `UserError` where there are none.
    """
    named: Any = getattr(backbone, "blocks", None)
    lists = _outermost_lists(backbone) if named is None else [named]
    blocks = [block for each in lists for block in each.children()]
    if not blocks:
        raise UserError(
            f"{type(backbone).__name__} has no repeated blocks, so they cannot be checkpointed, compiled or given to "
            f"Muon; put them into a ModuleList named `blocks`, or leave these options out."
        )
    return blocks


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


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

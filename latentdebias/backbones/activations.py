"""Bytes that a forward keeps for its backward, counted without running it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from latentdebias.backbones.blocks import checkpoint_blocks, find_blocks
from latentdebias.backbones.spec import BackboneSpec, Precision


@dataclass(frozen=True)
class ActivationBytes:
    """What one micro-batch keeps for the backward: as it is, and where every block is checkpointed.

    The second holds the inputs of all blocks, what is outside them, and one block's own (of the mean block) while it
    is run again.
    """

    kept: int
    kept_checkpointed: int


def activation_bytes(
    spec: BackboneSpec,
    latent_shape: tuple[int, int, int],
    num_classes: int,
    micro_batch_size: int,
    precision: Precision,
) -> ActivationBytes:
    """Count on fake tensors, with the CPU's autocast rules; temporaries of kernels and of the backward are left out."""
    channels, side, _ = latent_shape
    with torch.device("meta"):
        backbone = spec.without_pretrained().build(side, channels, num_classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone.to_empty(device="cpu")
        kept = saved_bytes(backbone, latent_shape, micro_batch_size, precision)
        blocks = find_blocks(backbone)
        if not blocks:
            return ActivationBytes(kept, kept)
        checkpoint_blocks(backbone)
        outside = saved_bytes(backbone, latent_shape, micro_batch_size, precision)
    return ActivationBytes(kept, outside + (kept - outside) // len(blocks))


def saved_bytes(
    backbone: nn.Module, latent_shape: tuple[int, int, int], micro_batch_size: int, precision: Precision
) -> int:
    """Bytes of the storages that autograd keeps after a forward, besides the weights; bf16 is autocast's."""
    weights = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = saved
        return saved

    z = torch.zeros(micro_batch_size, *latent_shape)
    t, y = torch.zeros(micro_batch_size), torch.zeros(micro_batch_size, dtype=torch.long)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with saved_tensors_hooks(keep, _as_it_is), autocast:
        loss = (backbone(z, t, y) - z).square().mean()
    assert loss.requires_grad
    return sum(saved.untyped_storage().nbytes() for saved in kept.values())


def _as_it_is(saved: Tensor) -> Tensor:
    return saved

"""How many bytes of activations a forward pass keeps for the backward pass, counted without memory or data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from latentdebias.backbones.blocks import checkpoint_blocks, find_blocks
from latentdebias.backbones.spec import BackboneSpec
from latentdebias.precision import Precision


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes that the forward pass of one micro-batch keeps for the backward pass.

    `kept` is without checkpointing. `kept_checkpointed` is with every block checkpointed: the inputs of all blocks, all
    that is kept outside the blocks, and what an average block keeps while its forward runs again.
    """

    kept: int
    kept_checkpointed: int


def activation_bytes(
    spec: BackboneSpec,
    latent_shape: tuple[int, int, int],
    num_classes: int,
    micro_batch_size: int,
    precision: Precision,
) -> ActivationBytes | None:
    """Count the activation bytes of one micro-batch on fake tensors, with the CPU's autocast rules.

    Temporary buffers of kernels and of the backward pass are not counted. Returns None for a backbone whose forward
    reads a tensor's values, for example with `.item()`: fake tensors have shapes and no values.
    """
    channels, side, _ = latent_shape
    with torch.device("meta"):
        backbone = spec.without_pretrained().build(side, channels, num_classes)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            backbone.to_empty(device="cpu")
            kept = saved_bytes(backbone, latent_shape, micro_batch_size, precision)
            blocks = find_blocks(backbone)
            if not blocks:
                return ActivationBytes(kept, kept)
            checkpoint_blocks(backbone)
            outside = saved_bytes(backbone, latent_shape, micro_batch_size, precision)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return None
    return ActivationBytes(kept, outside + (kept - outside) // len(blocks))


def saved_bytes(
    backbone: nn.Module, latent_shape: tuple[int, int, int], micro_batch_size: int, precision: Precision
) -> int:
    """Bytes of all storages except the weights that autograd keeps after one forward; bf16 runs under autocast."""
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

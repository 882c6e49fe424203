"""A checkpointed network draws the same dropout masks in its second forward as in its first."""

import pytest
import torch
from torch import nn

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.blocks import checkpoint_blocks

SIZE = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1, "attention_sides": [4], "head_width": 16}
SPECS = [
    {"name": "unet", **SIZE, "dropout": 0.5},
    {"name": "unet", **SIZE, "dropout": 0.5, "resampling": "conv", "time_shift": "add"},
]


@pytest.mark.parametrize("spec", SPECS, ids=["resnet", "conv"])
def test_gradients_with_dropout_are_those_without_checkpointing(device, spec):
    backbone = BACKBONES.build(spec).build(8, 4, 10).to(device).train()
    for parameter in backbone.parameters():
        # Away from an initialisation at zero, where the gradient does not depend on the masks.
        nn.init.normal_(parameter, std=0.1)
    batch = torch.randn(2, 4, 8, 8, device=device), torch.rand(2, device=device), torch.arange(2, device=device)

    def gradients(seed):
        torch.manual_seed(seed)
        return torch.autograd.grad(backbone(*batch).square().mean(), list(backbone.parameters()))

    plain, other_masks = gradients(0), gradients(1)
    checkpoint_blocks(backbone)
    checkpointed = gradients(0)
    # Sums on a GPU may be in another order from run to run; other masks change far more than that.
    assert near(plain, checkpointed)
    assert not near(plain, other_masks)


def near(some, others):
    scale = max(float(gradient.abs().max()) for gradient in some)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale) for a, b in zip(some, others, strict=True))

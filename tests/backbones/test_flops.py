"""FLOPs against published counts (DiT, table 4, prints multiply-adds) and against a hand count."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from latentdebias.backbones import BACKBONES, BackboneSpec
from latentdebias.backbones.activations import activation_bytes
from latentdebias.backbones.flops import forward_flops

LATENT = (4, 32, 32)


@pytest.mark.parametrize(
    ("name", "gflop_forward", "tflop_training"),
    [("dit_b_patch2", 46.0, 0.138), ("dit_l_patch2", 161.4, 0.484), ("dit_xl_patch2", 237.2, 0.712)],
)
def test_dits_cost_what_is_published(name, gflop_forward, tflop_training):
    flops = forward_flops(BACKBONES.build(name), LATENT, 1000)
    assert flops.total / 1e9 == pytest.approx(gflop_forward, rel=2e-3)
    assert flops.training() / 1e12 == pytest.approx(tflop_training, rel=2e-3)


def test_every_product_of_a_dit_is_counted_once():
    depth, width, tokens, patch = 12, 384, 256, 16
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width + 2 * 6 * width**2
    ends = 2 * 2 * tokens * patch * width + 2 * 2 * width**2 + 2 * 256 * width + 2 * width**2
    flops = forward_flops(BACKBONES.build("dit_s_patch2"), LATENT, 1000)
    assert flops.blocks == depth * block
    assert flops.total == pytest.approx(depth * block + ends, rel=1e-6)


def test_recomputed_blocks_cost_one_more_forward_of_theirs():
    flops = forward_flops(BACKBONES.build("diffusion_vit_small_patch2"), LATENT, 0)
    assert 0.9 * flops.total < flops.blocks < flops.total
    assert flops.training("blocks") - flops.training() == flops.blocks


def test_a_timm_vit_is_counted():
    spec = BACKBONES.build({"name": "vit", "timm_name": "eva02_tiny_patch14_224"})
    flops = forward_flops(spec, LATENT, 10)
    assert 0.9 * flops.total < flops.blocks < flops.total


@dataclass(frozen=True)
class Scaled(BackboneSpec):
    """z times what `read` gives of the times."""

    read: Callable

    def build(self, img_size, in_chans, num_classes, out_chans=None):
        network = nn.Conv2d(in_chans, in_chans, 1)
        network.forward = lambda z, t, y=None: nn.Conv2d.forward(network, z) * self.read(t)
        return network


READS = {
    "item": lambda t: t.sum().item(),
    "comparison": lambda t: 2 if t.sum() > 0 else 3,
    "list": lambda t: t.tolist()[0],
    "positions": lambda t: len(t.nonzero()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_backbone_that_reads_its_numbers_is_not_counted(read):
    spec = Scaled(read)
    assert spec.build(2, 4, 1)(torch.ones(1, 4, 2, 2), torch.ones(1)).shape == (1, 4, 2, 2)
    assert forward_flops(spec, LATENT, 10) is None
    assert activation_bytes(spec, LATENT, 10, 1, "fp32") is None


def test_a_fault_of_the_backbone_is_no_reason_to_leave_it_uncounted():
    wrong = Scaled(lambda t: t.expand(3) @ t.expand(5))
    with pytest.raises(RuntimeError):
        forward_flops(wrong, LATENT, 10)

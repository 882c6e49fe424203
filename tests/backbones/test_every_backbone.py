"""What `BackboneSpec` promises, for one small network of every family."""

import pytest
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError

VIT = {"width": 32, "depth": 3, "heads": 2}
MODERN = {"norm": "rms", "mlp": "swiglu", "positions": "sincos_rope", "qk_norm": "rms", "registers": 4}
UNET = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1, "attention_sides": [4], "head_width": 16}
SMALL = {
    "dit": {"name": "dit", **VIT},
    "dit_modern": {"name": "dit", **VIT, **MODERN},
    "min_snr_vit": {"name": "min_snr_vit", **VIT},
    "min_snr_vit_sinusoid": {"name": "min_snr_vit", **VIT, "time_embedding": "sinusoid"},
    "uvit": {"name": "uvit", **VIT},
    "unet": {"name": "unet", **UNET},
    "unet_conv": {"name": "unet", **UNET, "time_shift": "add", "resampling": "conv"},
    "ldm_unet": {"name": "ldm_unet", **UNET, "context_width": 24},
    "vit": {"name": "vit", "timm_name": "vit_tiny_patch16_224"},
    "dinov3": {"name": "vit", "timm_name": "vit_small_patch16_dinov3"},
    "eva02": {"name": "vit", "timm_name": "eva02_tiny_patch14_224"},
}
ZERO_AT_INIT = ["dit", "dit_modern", "unet", "unet_conv", "ldm_unet"]

every_backbone = pytest.mark.parametrize("name", SMALL)


def build(name, num_classes=10, out_chans=None):
    torch.manual_seed(0)
    return BACKBONES.build(SMALL[name]).build(8, 4, num_classes, out_chans).eval()


def randomised(model):
    """Parameters away from their zeros, so that everything in the network matters."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10])


@every_backbone
@pytest.mark.parametrize("out_chans", [None, 8])
@pytest.mark.parametrize("num_classes", [0, 10])
def test_output_has_the_channels_asked_for(name, num_classes, out_chans):
    z, t, y = inputs()
    model = build(name, num_classes, out_chans)
    assert model(z, t, y if num_classes else None).shape == (2, out_chans or 4, 8, 8)


@every_backbone
def test_no_labels_means_the_null_class(name):
    model, (z, t, _) = randomised(build(name)), inputs()
    torch.testing.assert_close(model(z, t), model(z, t, torch.tensor([10, 10])))


@every_backbone
def test_every_parameter_gets_a_gradient_and_input_time_and_class_matter(name):
    model, (z, t, y) = randomised(build(name)), inputs()
    out = model(z, t, y)
    out.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not torch.allclose(out, model(z + 1, t, y))
    assert not torch.allclose(out, model(z, t + 50, y))
    assert not torch.allclose(out[0], model(z, t, torch.tensor([4, 10]))[0])
    torch.testing.assert_close(out[1], model(z, t, torch.tensor([4, 10]))[1])


@pytest.mark.parametrize("name", ZERO_AT_INIT)
def test_it_starts_as_the_zero_function(name):
    assert not build(name)(*inputs()).any()


@every_backbone
@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (2, 4, 8, 4), (2, 3, 8, 8)])
def test_latents_of_another_shape_are_refused(name, shape):
    _, t, y = inputs()
    with pytest.raises(UserError, match=r"built for latents of shape \(4, 8, 8\)"):
        build(name)(torch.randn(shape), t, y)


@pytest.mark.parametrize("name", [name for name in SMALL if "unet" not in name])
def test_a_side_that_patches_do_not_tile_is_refused(name):
    with pytest.raises(UserError, match="do not tile"):
        BACKBONES.build({**SMALL[name], "patch_size": 3}).build(8, 4, 10)


@pytest.mark.parametrize("name", ["dit", "min_snr_vit", "uvit"])
def test_heads_that_do_not_divide_the_width_are_refused(name):
    with pytest.raises(UserError, match="heads 3 do not divide width 32"):
        BACKBONES.build({**SMALL[name], "heads": 3}).build(8, 4, 10)


@every_backbone
def test_blocks_run_in_the_order_they_are_listed(name):
    model, order = build(name), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, *_: order.append(module))
    model(*inputs())
    assert order == list(model.blocks)


@every_backbone
def test_a_written_spec_builds_the_same_network(name):
    spec = BACKBONES.build(SMALL[name])
    assert BACKBONES.build(BACKBONES.spec_of(spec)) == spec

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.unet import as_convolved
from latentdebias.errors import UserError

SMALL = {"name": "unet", "channels": 32, "multipliers": [1, 2, 2], "res_blocks": 1, "attention_sides": [4]}
SMALL |= {"head_width": 32}
LDM = {**SMALL, "name": "ldm_unet", "context_width": 24}
unets = pytest.mark.parametrize("spec", [SMALL, LDM], ids=lambda spec: spec["name"])


def build(spec=SMALL, num_classes=10, **changes):
    torch.manual_seed(0)
    return BACKBONES.build({**spec, **changes}).build(8, 3, num_classes)


def test_attention_is_where_it_is_asked_for_and_in_the_middle():
    unet = build().unet
    levels = [hasattr(block, "attentions") for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    assert levels == [False, True, False, True, False, True, False]
    assert unet.down_blocks[1].attentions[0].heads == 2
    assert unet.mid_block.attentions[0].group_norm.num_groups == 32


def test_cross_attention_has_heads_of_the_width_asked_for():
    unet = build(LDM).unet
    attention = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    assert (attention.heads, attention.to_q.out_features, attention.to_k.in_features) == (2, 64, 24)


def test_scale_shift_doubles_what_time_tells_a_block():
    widths = {shift: build(time_shift=shift).unet.down_blocks[0].resnets[0] for shift in ("scale_shift", "add")}
    assert widths["scale_shift"].time_emb_proj.out_features == 2 * widths["add"].time_emb_proj.out_features


def test_resampling_is_by_residual_blocks_or_by_convolution():
    for kind, name in (("resnet", "ResnetBlock2D"), ("conv", "Downsample2D")):
        down = build(resampling=kind).unet.down_blocks
        assert [type(block.downsamplers[0]).__name__ for block in down[:-1]] == [name, name]


def test_the_null_class_has_a_row_and_an_unconditional_one_none():
    assert build().unet.class_embedding.num_embeddings == 11
    assert build(num_classes=0).unet.class_embedding is None
    assert build(LDM, num_classes=0).class_embedding.num_embeddings == 1


def test_time_is_the_sinusoid_of_the_other_backbones():
    """ADM's order: cosines, then sines."""
    from latentdebias.backbones.embeddings import sinusoid

    t = torch.tensor([0.0, 3.0, 999.0])
    torch.testing.assert_close(build().unet.time_proj(t), sinusoid(t, 32))


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z, t = torch.randn(1, 3, 8, 8), torch.tensor([5.0])
    assert not torch.equal(model.train()(z, t), model(z, t))
    assert torch.equal(model.eval()(z, t), model(z, t))


@unets
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"multipliers": [1, 1, 1, 1, 1]}, "cannot be halved 4 times"),
        ({"attention_sides": [16]}, r"attention_sides names 16, and the levels have sides \[8, 4, 2\]"),
        ({"channels": 48}, "a level of 48 channels"),
        ({"head_width": 48}, "head_width 48 does not divide 64 channels"),
        ({"multipliers": []}, "multipliers"),
    ],
)
def test_levels_that_do_not_fit_are_errors(spec, changes, words):
    with pytest.raises(UserError, match=words):
        build(spec, **changes)


@unets
def test_channels_last_changes_no_number(spec):
    """The memory order in which both UNets compute on a GPU in bf16, here on a CPU."""
    model = build(spec)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z, t, y = torch.randn(2, 3, 8, 8), torch.rand(2), torch.arange(2)
    plain = model(z, t, y).detach()
    reordered = model(z.contiguous(memory_format=torch.channels_last), t, y)
    torch.testing.assert_close(reordered, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    reordered.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_channels_are_last_on_a_gpu_in_bf16_alone(monkeypatch):
    on_cpu = torch.zeros(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert as_convolved(on_cpu) is on_cpu
    with FakeTensorMode():
        z = torch.zeros(2, 3, 8, 8, device="cuda")
        for in_bf16 in (False, True):
            monkeypatch.setattr(torch, "is_autocast_enabled", lambda device, enabled=in_bf16: enabled)
            assert as_convolved(z).is_contiguous(memory_format=torch.channels_last) == in_bf16

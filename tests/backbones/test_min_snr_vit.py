import math

import pytest
import timm
import torch
from torch.nn import functional as F

from latentdebias.backbones import BACKBONES

SMALL = {"name": "min_snr_vit", "width": 32, "depth": 3, "heads": 2}
BLOCK = {
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight",
    "attn.proj.weight", "attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
}  # fmt: skip
REST = {
    "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "linear_projection.weight",
    "linear_projection.bias", "class_embedding.weight", "time_embedding.weight",
}  # fmt: skip


def build(num_classes=10, **changes):
    torch.manual_seed(0)
    return BACKBONES.build({**SMALL, **changes}).build(8, 4, num_classes)


def described(weights, z, t, y, heads=2, patch=2):
    """The network written down from the paper's description and its checkpoint's keys."""
    w = weights
    x = F.conv2d(z, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).flatten(2).mT
    x = torch.cat([w["time_embedding.weight"][t][:, None], w["class_embedding.weight"][y][:, None], x], 1)
    x = x + w["pos_embed"]
    width = x.shape[-1]
    for n in range(len({key.split(".")[1] for key in w if key.startswith("blocks")})):
        b = {key.removeprefix(f"blocks.{n}."): value for key, value in w.items() if key.startswith(f"blocks.{n}.")}
        h = F.layer_norm(x, (width,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        weight_q, weight_k, weight_v = b["attn.qkv.weight"].chunk(3)
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (h @ weight_q.T + b["attn.q_bias"], h @ weight_k.T, h @ weight_v.T + b["attn.v_bias"])
        )
        attention = (q @ k.mT / math.sqrt(width // heads)).softmax(-1) @ v
        x = x + F.linear(attention.transpose(1, 2).flatten(2), b["attn.proj.weight"], b["attn.proj.bias"])
        h = F.layer_norm(x, (width,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        h = F.linear(h, b["mlp.fc1.weight"], b["mlp.fc1.bias"])
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + F.linear(h, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    x = F.linear(x[:, 2:], w["linear_projection.weight"], w["linear_projection.bias"])
    out, side = torch.empty_like(z), z.shape[-1] // patch
    for token in range(side**2):
        row, column = patch * (token // side), patch * (token % side)
        pixels = x[:, token].view(len(z), patch, patch, -1)
        out[:, :, row : row + patch, column : column + patch] = pixels.permute(0, 3, 1, 2)
    return out


def test_it_is_the_network_that_the_paper_describes():
    model = build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([1, 900]), torch.tensor([3, 10])
    torch.testing.assert_close(model(z, t.float(), y), described(model.state_dict(), z, t, y), rtol=1e-5, atol=1e-5)


def test_the_keys_are_those_of_the_published_checkpoints():
    blocks = {f"blocks.{layer}.{key}" for layer in range(3) for key in BLOCK}
    model = build()
    assert set(model.state_dict()) == REST | blocks
    assert model.pos_embed.shape == (1, 2 + 16, 32)
    assert model.time_embedding.weight.shape == (4000, 32)


def test_an_unconditional_one_has_one_token_more_than_patches():
    model = build(num_classes=0)
    assert model.pos_embed.shape == (1, 1 + 16, 32)
    assert "class_embedding.weight" not in model.state_dict()


def test_it_starts_as_the_published_code_does():
    """Deviations are of normals cut at two, in absolute units: at 0.02 that is no cut."""
    model = build(width=128, depth=4, heads=4)
    for layer, block in enumerate(model.blocks, start=1):
        for scaled in (block.attn.proj, block.mlp.fc2):
            assert scaled.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * layer), rel=0.05)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not block.attn.q_bias.any()
        assert not block.attn.v_bias.any()
    assert model.linear_projection.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert model.time_embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    assert model.class_embedding.weight.std().item() == pytest.approx(1, rel=0.1)
    out = model(torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10]))
    assert 0 < out.abs().max() < 1e-2


def test_the_sinusoid_is_an_option():
    keys = set(build(time_embedding="sinusoid").state_dict())
    assert "time_embedding.mlp.0.weight" in keys
    assert "time_embedding.weight" not in keys


@pytest.mark.parametrize("name", ["min_snr_vit_s_patch8", "diffusion_vit_small_patch8"])
def test_timm_builds_it_under_both_names(name):
    model = timm.create_model(name, img_size=8, in_chans=4, num_classes=0)
    assert (len(model.blocks), model.pos_embed.shape[-1], model.blocks[0].attn.num_heads) == (13, 512, 8)

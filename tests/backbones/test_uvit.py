import pytest
import torch
from torch.nn import functional as F

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError

SMALL = {"name": "uvit", "width": 32, "depth": 5, "heads": 2}
BLOCK = {
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.weight", "attn.proj.weight",
    "attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
}  # fmt: skip
REST = {
    "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "label_emb.weight", "norm.weight", "norm.bias",
    "decoder_pred.weight", "decoder_pred.bias",
}  # fmt: skip
CONV = {"final_layer.weight", "final_layer.bias"}


def build(**changes):
    torch.manual_seed(0)
    return BACKBONES.build({**SMALL, **changes}).build(8, 4, 10)


def described_block(w, at, x, heads):
    """A pre-norm block written down from the paper's description, with the keys of its checkpoints."""
    width = x.shape[-1]
    h = F.layer_norm(x, (width,), w[f"{at}.norm1.weight"], w[f"{at}.norm1.bias"], 1e-5)
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (h @ w[f"{at}.attn.qkv.weight"].T).chunk(3, -1)
    )
    attention = (q @ k.mT / (width // heads) ** 0.5).softmax(-1) @ v
    x = x + F.linear(attention.transpose(1, 2).flatten(2), w[f"{at}.attn.proj.weight"], w[f"{at}.attn.proj.bias"])
    h = F.layer_norm(x, (width,), w[f"{at}.norm2.weight"], w[f"{at}.norm2.bias"], 1e-5)
    h = F.gelu(F.linear(h, w[f"{at}.mlp.fc1.weight"], w[f"{at}.mlp.fc1.bias"]))
    return x + F.linear(h, w[f"{at}.mlp.fc2.weight"], w[f"{at}.mlp.fc2.bias"])


def described(w, z, t, y, heads=2, patch=2, shallow=2):
    """The network written down from the paper's description: tokens [class, time, patches], skips last to first."""
    x = F.conv2d(z, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).flatten(2).mT
    half = x.shape[-1] // 2
    angles = t[:, None] / 10_000 ** (torch.arange(half) / half)
    time = torch.cat([angles.cos(), angles.sin()], -1)
    x = torch.cat([w["label_emb.weight"][y][:, None], time[:, None], x], 1) + w["pos_embed"]
    skips = []
    for n in range(shallow):
        x = described_block(w, f"in_blocks.{n}", x, heads)
        skips.append(x)
    x = described_block(w, "mid_block", x, heads)
    for n in range(shallow):
        at = f"out_blocks.{n}"
        joined = torch.cat([x, skips[shallow - 1 - n]], -1)
        x = F.linear(joined, w[f"{at}.skip_linear.weight"], w[f"{at}.skip_linear.bias"])
        x = described_block(w, at, x, heads)
    x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-5)[:, 2:]
    x = F.linear(x, w["decoder_pred.weight"], w["decoder_pred.bias"])
    side = z.shape[-1] // patch
    x = x.view(len(z), side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(z.shape)
    return F.conv2d(x, w["final_layer.weight"], w["final_layer.bias"], padding=1)


def test_it_is_the_network_that_the_paper_describes():
    model = build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10])
    torch.testing.assert_close(model(z, t, y), described(model.state_dict(), z, t, y), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("final_conv", "behind"), [(True, CONV), (False, set())])
def test_the_keys_are_those_of_the_published_checkpoints(final_conv, behind):
    places = ["in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.0", "out_blocks.1"]
    blocks = {f"{place}.{key}" for place in places for key in BLOCK}
    skips = {f"out_blocks.{n}.skip_linear.{kind}" for n in range(2) for kind in ("weight", "bias")}
    assert set(build(final_conv=final_conv).state_dict()) == REST | blocks | skips | behind


def test_the_final_convolution_works_on_the_output_channels():
    model = BACKBONES.build(SMALL).build(8, 4, 10, out_chans=8)
    assert model.final_layer.weight.shape == (8, 8, 3, 3)


def test_an_even_depth_is_an_error():
    with pytest.raises(UserError, match="odd depth, such as 5"):
        build(depth=4)

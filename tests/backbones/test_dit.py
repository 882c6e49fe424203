import pytest
import timm
import torch
from timm.layers import apply_rot_embed_cat

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError

SMALL = {"name": "dit", "width": 32, "depth": 2, "heads": 2}


@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_every_size_maps_latents_to_latents_through_timm(size, patch_size):
    with torch.device("meta"):
        model = timm.create_model(f"dit_{size}_patch{patch_size}", img_size=32, in_chans=4, num_classes=10)
        z, t, y = torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2, dtype=torch.long)
        assert model(z, t, y).shape == (2, 4, 32, 32)


def test_the_gates_start_closed():
    model = BACKBONES.build(SMALL).build(8, 4, 10)
    assert not any(block.adaLN_modulation[1].weight.any() for block in model.blocks)


def test_patches_come_back_where_they_were():
    """With an identity instead of the blocks, pixel (h, w) of the output is that of the input."""
    from einops import rearrange

    from latentdebias.backbones.embeddings import unpatchify

    image = torch.randn(2, 3, 8, 8)
    tokens = rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
    torch.testing.assert_close(unpatchify(tokens, patch_size=2, grid_size=4), image)


def test_published_parameter_names():
    with torch.device("meta"):
        names = {name for name, _ in BACKBONES.build(SMALL).build(8, 4, 10).named_parameters()}
    expected = {
        "pos_embed", "x_embedder.proj.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.bias",
        "y_embedder.embedding_table.weight", "blocks.1.attn.qkv.weight", "blocks.0.attn.proj.bias",
        "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias", "blocks.0.adaLN_modulation.1.weight",
        "final_layer.linear.weight", "final_layer.adaLN_modulation.1.bias",
    }  # fmt: skip
    assert expected <= names


def test_pretrained_is_refused_where_there_is_nothing_to_load():
    with pytest.raises(UserError, match="no pretrained weights"):
        timm.create_model("dit_s_patch2", pretrained=True)


def randomised(**changes):
    torch.manual_seed(0)
    model = BACKBONES.build({**SMALL, **changes}).build(8, 4, 10)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def count(**changes):
    return sum(parameter.numel() for parameter in BACKBONES.build({**SMALL, **changes}).build(8, 4, 10).parameters())


@pytest.mark.parametrize("changes", [{"norm": "rms"}, {"positions": "sincos_rope"}])
def test_norm_and_rotation_have_no_parameters(changes):
    assert count(**changes) == count()


def test_swiglu_is_as_large_as_the_mlp_it_replaces():
    wide = {"width": 384, "depth": 1}
    assert count(mlp="swiglu", **wide) == pytest.approx(count(**wide), rel=1e-3)


@pytest.mark.parametrize(("kind", "each"), [("rms", 16), ("layer", 32)])
def test_query_and_key_norms_are_over_a_heads_width(kind, each):
    assert count(qk_norm=kind) - count() == 2 * 2 * each


@pytest.mark.parametrize("changes", [{"norm": "rms"}, {"mlp": "swiglu"}, {"qk_norm": "layer"}, {"qk_norm": "rms"}])
def test_an_option_changes_the_function(changes):
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0])
    assert not torch.allclose(randomised()(z, t), randomised(**changes)(z, t))


def test_rms_norm_does_not_centre():
    x = torch.randn(3, 32) + 5
    norm = BACKBONES.build({**SMALL, "norm": "rms"}).build(8, 4, 10).blocks[0].norm1
    torch.testing.assert_close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt())


def shifted(model):
    """Answers for an image, and for the same one moved by a patch and back."""
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    return model(z, t), model(z.roll(2, -1), t).roll(-2, -1)


def test_without_positions_of_its_own_only_the_rotation_tells_places_apart():
    model = randomised(positions="rope")
    assert "pos_embed" not in dict(model.named_parameters())
    assert not torch.allclose(*shifted(model), atol=1e-4)
    model.rope = None
    torch.testing.assert_close(*shifted(model), rtol=1e-4, atol=1e-4)


def test_the_rotation_tells_distances_and_not_places():
    """The same queries and keys meet alike wherever their four patches lie."""
    rope = randomised(positions="rope").rope.get_embed().view(4, 4, -1)
    q, k = torch.randn(2, 1, 1, 4, 16)
    places = rope[:2, :2].reshape(4, -1), rope[1:3, 2:4].reshape(4, -1)
    scores = [apply_rot_embed_cat(q, place) @ apply_rot_embed_cat(k, place).mT for place in places]
    assert not torch.allclose(scores[0], q @ k.mT)
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


def test_registers_are_seen_by_the_patches_and_not_read_out():
    model = randomised(registers=3)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0])
    before = model(z, t)
    assert before.shape == z.shape
    with torch.no_grad():
        model.register_tokens.add_(1)
    assert not torch.allclose(before, model(z, t))


def test_heads_that_cannot_be_turned_are_an_error():
    with pytest.raises(UserError, match="multiple of 4"):
        BACKBONES.build({**SMALL, "width": 36, "heads": 6, "positions": "rope"}).build(8, 4, 10)


def test_an_unknown_part_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="'layer' or 'rms'"):
        BACKBONES.build({**SMALL, "norm": "batch"})

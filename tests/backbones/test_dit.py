import pytest
import timm
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError

SMALL = {"name": "dit", "width": 32, "depth": 2, "heads": 2}


def millions(model):
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(("size", "published"), [("s", 33.0), ("b", 130.5), ("l", 458.1), ("xl", 675.1)])
def test_published_parameter_counts_at_patch_2(size, published):
    with torch.device("meta"):
        model = timm.create_model(f"dit_{size}_patch2", img_size=32, in_chans=4, num_classes=1000, out_chans=8)
    assert millions(model) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_every_size_maps_latents_to_latents_through_timm(size, patch_size):
    with torch.device("meta"):
        model = timm.create_model(f"dit_{size}_patch{patch_size}", img_size=32, in_chans=4, num_classes=10)
        z, t, y = torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2, dtype=torch.long)
        assert model(z, t, y).shape == (2, 4, 32, 32)


def test_it_starts_as_the_zero_function_with_zero_gates():
    model = BACKBONES.build(SMALL).build(8, 4, 10)
    assert not model(torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10])).any()
    assert not any(block.adaLN_modulation[1].weight.any() for block in model.blocks)


def test_every_trained_parameter_gets_a_gradient_and_time_and_class_matter():
    torch.manual_seed(0)
    model = BACKBONES.build(SMALL).build(8, 4, 10)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10])
    out = model(z, t, y)
    out.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not torch.allclose(out, model(z, t + 50, y))
    assert not torch.allclose(out[0], model(z, t, torch.tensor([4, 10]))[0])


def test_no_labels_means_the_null_class():
    model = BACKBONES.build(SMALL).build(8, 4, 10)
    torch.nn.init.normal_(model.final_layer.adaLN_modulation[1].weight)
    torch.nn.init.normal_(model.final_layer.linear.weight)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 6.0])
    torch.testing.assert_close(model(z, t), model(z, t, torch.tensor([10, 10])))


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


def test_a_patch_that_does_not_tile_is_an_error():
    with pytest.raises(UserError, match="do not tile"):
        BACKBONES.build({**SMALL, "patch_size": 3}).build(8, 4, 10)


def test_pretrained_is_refused_where_there_is_nothing_to_load():
    with pytest.raises(UserError, match="no pretrained weights"):
        timm.create_model("dit_s_patch2", pretrained=True)

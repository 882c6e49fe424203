import pytest
import timm
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError

TIMM_NAMES = [
    "vit_tiny_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_pe_core_tiny_patch16_384",
    "deit3_small_patch16_224",
    "eva02_tiny_patch14_224",
]


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_any_timm_vit_builds_on_latents(name):
    with torch.device("meta"):
        model = BACKBONES.build({"name": "vit", "timm_name": name}).build(32, 4, 10)
        z, t, y = torch.empty(2, 4, 32, 32), torch.empty(2), torch.empty(2, dtype=torch.long)
        assert model(z, t, y).shape == (2, 4, 32, 32)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_rope_mixed_ape_224"])
def test_all_parameters_train_and_both_tokens_matter(name):
    torch.manual_seed(0)
    model = BACKBONES.build({"name": "vit", "timm_name": name, "patch_size": 2}).build(8, 4, 10)
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 900.0]), torch.tensor([3, 10])
    out = model(z, t, y)
    out.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert not torch.allclose(out, model(z, t + 50, y))
    assert not torch.allclose(out[0], model(z, t, torch.tensor([4, 10]))[0])


def test_rotary_embedding_turns_patches_only():
    """A class token that were rotated would make the answer depend on where the patches begin."""
    model = BACKBONES.build({"name": "vit", "timm_name": "vit_small_patch16_rope_224"}).build(8, 4, 10)
    prefix = {m.num_prefix_tokens for m in model.vit.blocks.modules() if hasattr(m, "num_prefix_tokens")}
    assert prefix == {model.vit.num_prefix_tokens + 2}


def test_time_may_be_a_table():
    spec = {"name": "vit", "timm_name": "vit_tiny_patch16_224", "time_embedding": "table"}
    assert BACKBONES.build(spec).build(8, 4, 10).t_embedder.weight.shape == (4000, 192)


def test_unknown_and_foreign_timm_names_are_errors():
    with pytest.raises(UserError, match="Did you mean 'vit_tiny_patch16_224'"):
        BACKBONES.build({"name": "vit", "timm_name": "vit_tny_patch16_224"}).build(8, 4, 10)
    with pytest.raises(UserError, match="VisionTransformer and Eva"):
        BACKBONES.build({"name": "vit", "timm_name": "resnet18"}).build(8, 4, 10)


def test_pretrained_weights_arrive_in_the_blocks(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    spec = {"name": "vit", "timm_name": "vit_tiny_patch16_224", "pretrained": True}
    built = BACKBONES.build({**spec, "weights_file": str(tmp_path / "weights.pth")})
    model = built.build(32, 4, 10)
    torch.testing.assert_close(model.vit.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    assert not built.without_pretrained().pretrained

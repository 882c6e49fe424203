"""Published formats with random weights, against forwards written down from the papers."""

import math
from pathlib import Path

import pytest
import torch
from backbones.test_min_snr_vit import described as described_min_snr
from backbones.test_uvit import described as described_uvit
from torch.nn import functional as F

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError
from latentdebias.interop.published.checkpoint_file import CheckpointFile
from latentdebias.interop.published.dit import import_dit, read_dit
from latentdebias.interop.published.min_snr import import_min_snr
from latentdebias.interop.published.shapes import ImportOptions
from latentdebias.interop.published.uvit import import_uvit
from latentdebias.models.model_directory import load_model

HEADS = ImportOptions(heads=2)
Z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([0, 500, 999]), torch.tensor([0, 9, 10])


def block_weights(width):
    """Of one DiT block."""
    shapes = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
        "adaLN_modulation.1": (6 * width, width),
    }
    return {f"{name}.{kind}": shape[: 1 if kind == "bias" else 2] for name, shape in shapes.items() for kind in KINDS}


KINDS = ("weight", "bias")


def dit_shapes(width=32, depth=2, patch=2, tokens=16, rows=11, outputs=8):
    """The keys and shapes of facebookresearch/DiT."""
    shapes = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, 4, patch, patch),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (rows, width),
        "final_layer.linear.weight": (patch * patch * outputs, width),
        "final_layer.linear.bias": (patch * patch * outputs,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    for n in range(depth):
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block_weights(width).items()}
    return shapes


def dit_file(**sizes):
    """Random weights with the keys and shapes of facebookresearch/DiT."""
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in dit_shapes(**sizes).items()}


def described_dit(w, z, t, y, heads=2, patch=2):
    """DiT written down from its paper: figure 3, adaLN-Zero, tanh GELU, time at 128 frequencies."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = t[:, None].float() * frequencies
    c = torch.cat([angles.cos(), angles.sin()], 1)
    c = F.silu(F.linear(c, w["t_embedder.mlp.0.weight"], w["t_embedder.mlp.0.bias"]))
    c = F.linear(c, w["t_embedder.mlp.2.weight"], w["t_embedder.mlp.2.bias"])
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])[:, None]
    x = F.conv2d(z, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch).flatten(2).mT
    x, width = x + w["pos_embed"], x.shape[-1]
    for n in range(len({name.split(".")[1] for name in w if name.startswith("blocks")})):
        b = {name.removeprefix(f"blocks.{n}."): v for name, v in w.items() if name.startswith(f"blocks.{n}.")}
        modulation = F.linear(c, b["adaLN_modulation.1.weight"], b["adaLN_modulation.1.bias"])
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        h = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale1) + shift1
        parts = F.linear(h, b["attn.qkv.weight"], b["attn.qkv.bias"]).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        h = ((q @ k.mT / math.sqrt(width // heads)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + gate1 * F.linear(h, b["attn.proj.weight"], b["attn.proj.bias"])
        h = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale2) + shift2
        h = F.gelu(F.linear(h, b["mlp.fc1.weight"], b["mlp.fc1.bias"]), approximate="tanh")
        x = x + gate2 * F.linear(h, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    modulation = F.linear(c, w["final_layer.adaLN_modulation.1.weight"], w["final_layer.adaLN_modulation.1.bias"])
    shift, scale = modulation.chunk(2, -1)
    x = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale) + shift
    x = F.linear(x, w["final_layer.linear.weight"], w["final_layer.linear.bias"])
    side = z.shape[-1] // patch
    x = x.view(len(z), side, side, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(len(z), -1, *z.shape[2:])


def ours_file(name, **fields):
    """Random weights of a network whose parameter names are the published ones (tested in tests/backbones)."""
    torch.manual_seed(0)
    spec = {"name": name, "width": 32, "heads": 2, **fields}
    return {name: 0.2 * torch.randn_like(w) for name, w in BACKBONES.build(spec).build(8, 4, 10).state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    def save(weights):
        torch.save(weights, tmp_path / "file.pt")
        return tmp_path / "file.pt"

    return save


@pytest.mark.parametrize(("outputs", "variance"), [(4, "fixed"), (8, "learned_range")])
def test_dit_answers_as_the_paper_describes(saved, tmp_path, outputs, variance):
    weights = dit_file(outputs=outputs)
    import_dit(saved(weights), tmp_path / "model", HEADS)
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(Z, T, Y), described_dit(weights, Z, T, Y), rtol=1e-5, atol=1e-5)
    spec = model.config.diffusion
    assert (spec["schedule"]["name"], spec["target"]["name"]) == ("linear", "eps")
    assert spec["variance"]["name"] == variance
    assert model.config.normalization.std[0] == pytest.approx(1 / 0.18215)
    assert (model.config.resolution, model.config.num_classes) == (64, 10)
    assert model.config.autoencoder.id == "stabilityai/sd-vae-ft-ema"


def test_min_snrs_vit_answers_as_the_paper_describes(saved, tmp_path):
    weights = ours_file("min_snr_vit", depth=3)
    import_min_snr(saved({"ema": weights}), tmp_path / "model", HEADS, "v", "cosine")
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            model.backbone(Z, T.float(), Y), described_min_snr(weights, Z, T, Y), rtol=1e-5, atol=1e-5
        )
    assert model.config.diffusion["target"]["name"] == "v"
    assert model.config.diffusion["schedule"]["name"] == "cosine"


@pytest.mark.parametrize("rows", [1000, 6000])
def test_a_time_table_of_another_length_is_cut_or_filled(saved, tmp_path, rows):
    weights = ours_file("min_snr_vit", depth=1)
    used = torch.randn(rows, 32)
    import_min_snr(saved({**weights, "time_embedding.weight": used}), tmp_path / "model", HEADS, "x0", "cosine")
    table = load_model(tmp_path / "model").backbone.time_embedding.weight
    assert torch.equal(table[:1000], used[:1000])


def test_uvit_answers_as_the_paper_describes(saved, tmp_path):
    weights = ours_file("uvit", depth=5)
    import_uvit(saved(weights), tmp_path / "model", HEADS, "scaled_linear")
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            model.backbone(Z, T.float(), Y), described_uvit(weights, Z, T.float(), Y), rtol=1e-5, atol=1e-5
        )
    assert model.config.diffusion["schedule"]["name"] == "scaled_linear"
    assert model.diffusion.model_time(torch.tensor([0, 999])).tolist() == [1, 1000]


@pytest.mark.parametrize(("rows", "num_classes", "expected"), [(11, None, 10), (11, 11, 11), (1001, None, 1000)])
def test_a_null_row_is_added_where_there_is_none(saved, tmp_path, rows, num_classes, expected):
    weights = dit_file(rows=rows)
    import_dit(saved(weights), tmp_path / "model", ImportOptions(heads=2, num_classes=num_classes))
    model = load_model(tmp_path / "model")
    assert model.config.num_classes == expected
    table = model.backbone.y_embedder.embedding_table.weight
    assert len(table) == expected + 1
    assert torch.equal(table[:rows], weights["y_embedder.embedding_table.weight"])


def test_an_unconditional_one_is_imported(saved, tmp_path):
    weights = ours_file("min_snr_vit", depth=1)
    del weights["class_embedding.weight"]
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    import_min_snr(saved(weights), tmp_path / "model", HEADS, "eps", "linear")
    assert load_model(tmp_path / "model").config.num_classes == 0


@pytest.mark.parametrize(
    ("size", "patch", "width", "heads"), [("s", 4, 384, 6), ("b", 8, 768, 12), ("l", 8, 1024, 16), ("xl", 2, 1152, 16)]
)
def test_published_sizes_are_known_by_their_width(size, patch, width, heads):
    shapes = dit_shapes(width, BACKBONES.build(f"dit_{size}_patch{patch}").depth, patch, (32 // patch) ** 2, 1001)
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = read_dit(CheckpointFile(Path("published.pt"), weights, sha256="", container=""), ImportOptions())
    assert found.spec == BACKBONES.build(f"dit_{size}_patch{patch}")
    assert (found.spec.width, found.spec.heads) == (width, heads)
    assert (found.side, found.num_classes) == (32, 1000)


def test_a_network_of_1000_classes_has_the_names_and_the_pixels_of_imagenet(saved, tmp_path):
    import_dit(saved(dit_file(width=384, depth=1, tokens=256, rows=1001)), tmp_path / "model", ImportOptions())
    config = load_model(tmp_path / "model").config
    assert config.resolution == 256
    assert config.class_names[207] == "golden retriever"


def test_an_unknown_width_asks_for_the_heads(saved, tmp_path):
    with pytest.raises(UserError, match="--heads N"):
        import_dit(saved(dit_file()), tmp_path / "model", ImportOptions())


def without(key):
    return {name: weight for name, weight in dit_file().items() if name != key}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (without("blocks.1.attn.proj.bias"), r"has no blocks\.1\.attn\.proj\.bias, .* shape \(32,\)"),
        ({**dit_file(), "blocks.1.mlp.fc2.weight": torch.zeros(32, 64)}, r"fc2\.weight with shape \(32, 64\).*32, 128"),
        ({**dit_file(), "blocks.0.attn.q_norm.weight": torch.zeros(16)}, r"q_norm\.weight with shape \(16,\)"),
        ({"patch_embed.proj.weight": torch.zeros(1)}, "no checkpoint of DiT"),
        ({**dit_file(), "x_embedder.proj.weight": torch.zeros(32)}, r"with shape \(32,\)"),
        ({**dit_file(), "pos_embed": torch.zeros(1, 15, 32)}, "15 patches"),
    ],
    ids=["missing", "shape", "unexpected", "another network", "no convolution", "no square"],
)
def test_what_does_not_fit_names_the_key_and_leaves_nothing(saved, tmp_path, weights, words):
    with pytest.raises(UserError, match=words):
        import_dit(saved(weights), tmp_path / "model", HEADS)
    assert not (tmp_path / "model").exists()


def test_an_autoencoder_of_other_channels_is_refused(saved, tmp_path):
    with pytest.raises(UserError, match="4 channels"):
        import_dit(saved(dit_file()), tmp_path / "model", ImportOptions(heads=2, vae="identity"))


def test_an_imported_model_draws(saved, tmp_path, tiny_vae_dir):
    from draw_options import draw_options

    import_dit(saved(dit_file()), tmp_path / "model", ImportOptions(heads=2, vae=str(tiny_vae_dir)))
    sampler = load_model(tmp_path / "model").image_sampler()
    images = torch.cat(list(sampler.draw(torch.tensor([3, 7]), draw_options(steps=2, sampler="ddpm"))))
    assert images.shape == (2, 3, 64, 64)


def test_an_autoencoder_that_was_never_seen_is_taken_by_its_scale(saved, tmp_path, tiny_vae_dir):
    """The tiny one's scaling factor is 0.5, not Stable Diffusion's."""
    import_dit(saved(dit_file()), tmp_path / "model", HEADS)
    with pytest.raises(UserError, match="not the one"):
        load_model(tmp_path / "model").image_sampler(str(tiny_vae_dir))

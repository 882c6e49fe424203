"""diffusers' folders, in and out: the same networks, the same images."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, DiTPipeline, DiTTransformer2DModel
from draw_options import draw_options
from random_models import CHANNELWISE, SMALL_DIT, randomised

from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.interop.diffusers.folded_vae import fold_normalization
from latentdebias.interop.diffusers.names import from_diffusers, to_diffusers
from latentdebias.interop.diffusers.pipeline import export_diffusers
from latentdebias.interop.diffusers.scheduler import diffusion_of, scheduler_of
from latentdebias.interop.diffusers.transformer import import_diffusers
from latentdebias.models.model_directory import load_model
from latentdebias.sampling import image_generator

Z, T, Y = torch.randn(3, 4, 4, 4), torch.tensor([0, 500, 999]), torch.tensor([0, 9, 10])
ONE_SCALE = LatentNormalization((0.0,) * 4, (2.0,) * 4)
# Images in [0, 1] against ours in whole levels of 255: half a level is rounding, and diffusers' tables are fp32.
ONE_LEVEL = 1 / 255


def their_transformer(tmp_path, **changes):
    torch.manual_seed(0)
    small = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "sample_size": 4}
    transformer = randomised(DiTTransformer2DModel(**{**small, "num_embeds_ada_norm": 10, **changes}))
    embedding = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(embedding)
    transformer.save_pretrained(tmp_path / "transformer")
    return transformer


def theirs(transformer, z, t, y):
    with torch.no_grad():
        return transformer(z, timestep=t, class_labels=y).sample


def ours(model, z, t, y):
    with torch.no_grad():
        return model.backbone(z, t.float(), y)


@pytest.mark.parametrize("changes", [{}, {"out_channels": 8}, {"patch_size": 1}, {"norm_eps": 1e-2}], ids=str)
def test_an_imported_transformer_answers_as_diffusers_does(tmp_path, changes):
    transformer = their_transformer(tmp_path, **changes)
    import_diffusers(tmp_path / "transformer", tmp_path / "model", None, "diffusers")
    model = load_model(tmp_path / "model")
    torch.testing.assert_close(ours(model, Z, T, Y), theirs(transformer, Z, T, Y), rtol=1e-5, atol=1e-5)
    assert model.diffusion.variance.outputs == changes.get("out_channels", 4) // 4


@pytest.mark.parametrize("format", [{"max_shard_size": "50KB"}, {"safe_serialization": False}], ids=["shards", "bin"])
def test_sharded_and_older_files_are_read_as_well(tmp_path, format):
    transformer = their_transformer(tmp_path / "whole")
    transformer.save_pretrained(tmp_path / "other" / "transformer", **format)
    for name in ("whole", "other"):
        import_diffusers(tmp_path / name, tmp_path / f"{name} model", None, "diffusers")
    left, right = (load_model(tmp_path / f"{name} model").backbone.state_dict() for name in ("whole", "other"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_weights_converted_from_dits_own_get_the_frequencies_of_their_training(tmp_path):
    transformer = their_transformer(tmp_path)
    import_diffusers(tmp_path / "transformer", tmp_path / "model", None, "dit")
    model = load_model(tmp_path / "model")
    assert (model.config.model["freq_shift"], model.config.model["mlp_norm_eps"]) == (0, 1e-6)
    assert not torch.allclose(ours(model, Z, T, Y), theirs(transformer, Z, T, Y), atol=1e-2)
    at_zero = torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(ours(model, Z, at_zero, Y), theirs(transformer, Z, at_zero, Y), rtol=1e-3, atol=1e-3)


def test_names_go_there_and_back(random_model):
    weights = random_model().backbone.state_dict()
    back = from_diffusers(to_diffusers(weights), weights["pos_embed"])
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_embeddings_that_differ_between_blocks_are_refused(tmp_path):
    transformer = their_transformer(tmp_path)
    with torch.no_grad():
        transformer.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight.add_(1)
    transformer.save_pretrained(tmp_path / "transformer")
    with pytest.raises(UserError, match=r"transformer_blocks\.1\.norm1\.emb\.class_embedder"):
        import_diffusers(tmp_path, tmp_path / "model", None, "diffusers")


def test_a_transformer_that_is_no_dit_is_refused(tmp_path):
    their_transformer(tmp_path, activation_fn="gelu")
    with pytest.raises(UserError, match="activation_fn: 'gelu', and DiT has 'gelu-approximate'"):
        import_diffusers(tmp_path, tmp_path / "model", None, "diffusers")


def test_a_folder_without_a_transformer_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist.*save_pretrained"):
        import_diffusers(tmp_path, tmp_path / "model", None, "diffusers")


DIFFUSIONS = [
    Diffusion("linear", "eps", variance="learned_range"),
    Diffusion("cosine", "v"),
    Diffusion("scaled_linear", "x0"),
    Diffusion({"name": "linear", "zero_terminal_snr": True}, "v"),
]


@pytest.mark.parametrize(
    ("diffusion", "guidance", "num_classes"),
    [*((diffusion, 1.5, 10) for diffusion in DIFFUSIONS), (DIFFUSIONS[0], 1.0, 10), (DIFFUSIONS[1], 1.0, 0)],
)
def test_the_exported_pipeline_draws_our_images(random_model, tmp_path, diffusion, guidance, num_classes):
    """At 30 steps, which do not divide 1000, and where DDIMScheduler would draw others."""
    model = random_model(diffusion=diffusion, num_classes=num_classes)
    assert export_diffusers(model, tmp_path / "out").pipeline == "DiTPipeline"
    pipe = DiTPipeline.from_pretrained(tmp_path / "out")
    labels = [3, 7] if num_classes else [0, 0]
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        labels,
        guidance_scale=guidance,
        generator=[image_generator(5, index) for index in range(2)],
        num_inference_steps=30,
        output_type="pt",
    ).images
    options = draw_options(sampler="ddim", steps=30, guidance=guidance, seed=5)
    expected = torch.cat(list(model.image_sampler().draw(torch.tensor(labels), options)))
    assert expected.float().std() > 1
    torch.testing.assert_close(drawn, expected / 255, rtol=0, atol=ONE_LEVEL)


@pytest.mark.parametrize("beta_range", ["adm", "diffusers"])
def test_a_linear_schedule_of_250_timesteps_goes_there_and_back(beta_range):
    ours = Diffusion({"name": "linear", "num_timesteps": 250, "beta_range": beta_range}, "v")
    scheduler = scheduler_of(ours)
    torch.testing.assert_close(scheduler.alphas_cumprod, ours.schedule.alphas_cumprod.float(), rtol=1e-5, atol=0)
    back = diffusion_of(scheduler.config, "fixed")
    torch.testing.assert_close(back.schedule.alphas_cumprod, ours.schedule.alphas_cumprod, rtol=1e-12, atol=0)


@pytest.mark.parametrize("freq_shift", [0, 1])
def test_the_exported_transformer_is_the_network(random_model, tmp_path, freq_shift):
    model = random_model({**SMALL_DIT, "freq_shift": freq_shift})
    export_diffusers(model, tmp_path / "out")
    transformer = DiTPipeline.from_pretrained(tmp_path / "out").transformer
    null = torch.where(Y == 10, 1000, Y)
    torch.testing.assert_close(theirs(transformer, Z, T, null), ours(model, Z, T, Y), rtol=1e-5, atol=1e-5)


def test_an_exported_folder_comes_back_as_it_was(random_model, tmp_path):
    model = random_model()
    export_diffusers(model, tmp_path / "out")
    import_diffusers(tmp_path / "out", tmp_path / "back", None, "diffusers")
    back = load_model(tmp_path / "back")
    assert all(torch.equal(w, back.backbone.state_dict()[name]) for name, w in model.backbone.state_dict().items())
    assert back.config.class_names == model.config.class_names
    assert back.diffusion.spec()["schedule"] == model.diffusion.spec()["schedule"]
    labels, options = torch.tensor([1, 2]), draw_options(steps=3)
    left, right = (torch.cat(list(m.image_sampler().draw(labels, options))).int() for m in (model, back))
    assert (left - right).abs().max() <= 1


def test_labels_and_scheduler_are_in_the_folder(random_model, tmp_path):
    export_diffusers(random_model(), tmp_path / "out")
    pipe = DiTPipeline.from_pretrained(tmp_path / "out")
    assert pipe.get_label_ids(["class 7", "class 0"]) == [7, 0]
    assert pipe.scheduler.config.prediction_type == "epsilon"
    ddim = DDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(ddim.alphas_cumprod, Diffusion("linear").schedule.alphas_cumprod.float())


@pytest.mark.parametrize("convolutions", [True, False])
def test_a_folded_autoencoder_works_on_normalised_latents(tiny_vae_dir, convolutions):
    changes = {"use_quant_conv": convolutions, "use_post_quant_conv": convolutions}
    config = {name: value for name, value in AutoencoderKL.load_config(tiny_vae_dir).items() if name[0] != "_"}
    vae = randomised(AutoencoderKL.from_config({**config, **changes}))
    folded = fold_normalization(vae, CHANNELWISE)
    assert folded.config.scaling_factor == 1
    latents, images = torch.randn(2, 4, 4, 4), torch.rand(2, 3, 32, 32)
    z = CHANNELWISE.normalize(latents)
    with torch.no_grad():
        torch.testing.assert_close(folded.decode(z).sample, vae.decode(latents).sample, rtol=1e-4, atol=1e-4)
        ours, theirs = folded.encode(images).latent_dist, vae.encode(images).latent_dist
    torch.testing.assert_close(ours.mean, CHANNELWISE.normalize(theirs.mean), rtol=1e-4, atol=1e-4)


def test_one_scale_for_all_channels_stays_a_scaling_factor(random_model, tmp_path, tiny_vae_dir):
    export_diffusers(random_model(normalization=ONE_SCALE), tmp_path / "out")
    vae = DiTPipeline.from_pretrained(tmp_path / "out").vae
    assert vae.config.scaling_factor == 0.5
    original = AutoencoderKL.from_pretrained(tiny_vae_dir).state_dict()
    assert all(torch.equal(weight, original[name]) for name, weight in vae.state_dict().items())


CUSTOM = [
    ({"name": "uvit", "width": 32, "depth": 3, "heads": 2}, Diffusion("cosine", "v"), "not dit"),
    ({**SMALL_DIT, "mlp": "swiglu"}, Diffusion("linear", "eps"), "mlp 'swiglu'"),
    (SMALL_DIT, Diffusion("flow", "flow"), "continuous"),
    (SMALL_DIT, Diffusion({"name": "linear", "first_time": 1}, "eps"), "counted from 1"),
    ({"name": "unet", "channels": 32, "multipliers": [1, 1], "res_blocks": 1, "attention_sides": [2], "head_width": 8},
     Diffusion("linear", "eps", variance="learned_range"), "not dit"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "diffusion", "reason"), CUSTOM)
def test_any_other_model_becomes_a_custom_pipeline_that_draws_our_images(
    random_model, tmp_path, spec, diffusion, reason
):
    model, out = random_model(spec, diffusion), tmp_path / "out"
    assert reason in export_diffusers(model, out).reason
    pipe = DiffusionPipeline.from_pretrained(str(out), custom_pipeline=str(out), trust_remote_code=True)
    drawn = pipe(class_labels=[3, 7], guidance_scale=2.0, num_inference_steps=5, seed=4, output_type="pt").images
    options = draw_options(steps=5, guidance=2.0, seed=4)
    expected = torch.cat(list(model.image_sampler().draw(torch.tensor([3, 7]), options)))
    assert torch.equal(drawn, expected / 255)
    assert pipe(class_labels=[1], num_inference_steps=1).images[0].size == (32, 32)


def test_a_model_of_pixels_has_no_autoencoder_to_export(random_model, tmp_path):
    pixels = LatentNormalization((0.0,) * 3, (1.0,) * 3)
    model = random_model({**SMALL_DIT, "patch_size": 8}, num_classes=0, normalization=pixels, vae="identity")
    assert "identity" in export_diffusers(model, tmp_path / "out").reason
    out = str(tmp_path / "out")
    pipe = DiffusionPipeline.from_pretrained(out, custom_pipeline=out, trust_remote_code=True)
    assert pipe.vae is None
    images = pipe(class_labels=[0], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 32, 32, 3)


def run_python(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


def test_what_needs_nothing_of_ours_loads_in_a_process_that_knows_diffusers_alone(random_model, tmp_path):
    own, custom = str(tmp_path / "own"), str(tmp_path / "custom")
    export_diffusers(random_model({**SMALL_DIT, "freq_shift": 1}), Path(own))
    export_diffusers(random_model({**SMALL_DIT, "mlp": "swiglu"}), Path(custom))
    run_python(
        "import sys",
        "from diffusers import DiffusionPipeline, DiTPipeline",
        f"DiTPipeline.from_pretrained({own!r})",
        "assert 'latentdebias' not in sys.modules",
        f"pipe = DiffusionPipeline.from_pretrained({custom!r}, custom_pipeline={custom!r}, trust_remote_code=True)",
        "pipe([1], num_inference_steps=1)",
    )


def test_our_transformer_loads_by_the_module_of_today_and_that_of_version_0_1(random_model, tmp_path):
    today, before = tmp_path / "today", tmp_path / "before"
    export_diffusers(random_model(), today)
    index = json.loads((today / "model_index.json").read_text())
    module, name = index["transformer"]
    assert importlib.import_module(module).PublishedDiTTransformer2DModel.__name__ == name
    shutil.copytree(today, before)
    index["transformer"] = ["latentdebias.export.dit_transformer", name]
    (before / "model_index.json").write_text(json.dumps(index))
    run_python(
        "import latentdebias.export",
        "from diffusers import DiTPipeline",
        f"for folder in ({str(today)!r}, {str(before)!r}):",
        "    pipe = DiTPipeline.from_pretrained(folder)",
        f"    assert type(pipe.transformer).__name__ == {name!r}",
        "    assert pipe.transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift == 0",
    )


def test_a_custom_pipeline_of_version_0_1_draws(random_model, tmp_path):
    out = tmp_path / "out"
    export_diffusers(random_model({**SMALL_DIT, "mlp": "swiglu"}), out)
    index = json.loads((out / "model_index.json").read_text())
    index["denoiser"] = ["latentdebias.export.custom_pipeline", "Denoiser"]
    (out / "model_index.json").write_text(json.dumps(index))
    assert "from latentdebias.export.custom_pipeline import" in (out / "pipeline.py").read_text()
    pipe = DiffusionPipeline.from_pretrained(str(out), custom_pipeline=str(out), trust_remote_code=True)
    assert pipe([1], num_inference_steps=1).images[0].size == (32, 32)


def test_a_failed_export_leaves_what_was_there(random_model, tmp_path, monkeypatch):
    model = random_model()
    export_diffusers(model, tmp_path / "out")
    before = json.loads((tmp_path / "out" / "model_index.json").read_text())
    with pytest.raises(UserError, match="not the one"):
        export_diffusers(model, tmp_path / "out", "digits")
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == before

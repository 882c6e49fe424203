import hashlib
import pickle

import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file

from latentdebias.backbones import BACKBONES
from latentdebias.models.model_directory import load_model

SIZES = {"width": 32, "depth": 3, "heads": 2}


def weights_of(name, out_chans=4):
    torch.manual_seed(0)
    network = BACKBONES.build({"name": name, **SIZES}).build(4, 4, 10, out_chans)
    return {key: 0.1 * torch.randn_like(weight) for key, weight in network.state_dict().items()}


@pytest.mark.parametrize(
    ("command", "name", "more", "says"),
    [
        ("import-dit", "dit", [], "target eps, schedule linear, variance learned_range"),
        ("import-min-snr", "min_snr_vit", ["--target", "v"], "target v, schedule cosine, variance fixed"),
        ("import-uvit", "uvit", [], "target eps, schedule scaled_linear, variance fixed"),
    ],
)
def test_a_published_file_becomes_a_model_that_is_drawn_and_fine_tuned(
    tool, small_run, tmp_path, process_group, command, name, more, says
):
    path, out = tmp_path / "file.pt", tmp_path / "model"
    weights = weights_of(name, 8 if name == "dit" else 4)
    torch.save({"ema": weights}, path)
    result = tool("export", command, path, "--out", out, "--heads", 2, "--vae", "digits", *more)
    assert result.code == 0, result.err
    assert hashlib.sha256(path.read_bytes()).hexdigest() in result.out
    assert says in result.out
    drawn = tool("sample", "--model", out, "--num", 2, "--steps", 2, "--out", tmp_path / "drawn")
    assert drawn.code == 0, drawn.err
    check_fine_tuning_starts_there(out, small_run, weights, name)


def check_fine_tuning_starts_there(model_dir, small_run, weights, name):
    from latentdebias.config import load_config
    from latentdebias.prepare import prepare
    from latentdebias.run import Run

    variance = load_model(model_dir).config.diffusion["variance"]["name"]
    sizes = [f"model.{key}={value}" for key, value in {**SIZES, "patch_size": 2}.items()]
    changes = [f"diffusion.variance={variance}", "training.steps=1", f"init_from={model_dir}"]
    config = load_config("digits_debias.yaml", [f"model.name={name}", *small_run, *sizes, *changes])
    run = Run(prepare(config))
    started = run.zero_state.gathered_weights()
    for key, weight in started.items():
        torch.testing.assert_close(weight, weights[key], msg=key)
    run.train()


def test_a_model_goes_to_diffusers_and_back(tool, model_dir, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    result = tool("export", "diffusers", "--model", model_dir, "--out", there)
    assert result.code == 0, result.err
    assert "DiTPipeline" in result.out
    assert isinstance(DiTPipeline.from_pretrained(there).transformer, DiTTransformer2DModel)
    assert tool("export", "import-diffusers", there, "--out", back).code == 0
    left, right = (load_file(folder / "model.safetensors") for folder in (model_dir, back))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_malicious_file_ends_with_one_paragraph(tool, tmp_path):
    class RunsCode:
        def __reduce__(self):
            return print, ("it ran",)

    (tmp_path / "file.pt").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    result = tool("export", "import-dit", tmp_path / "file.pt", "--out", tmp_path / "model")
    assert result.code == 2
    assert "never run" in result.err
    assert "it ran" not in result.out
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_of_another_network_says_which_key_and_what_to_do(tool, tmp_path):
    torch.save(weights_of("uvit"), tmp_path / "file.pt")
    result = tool("export", "import-dit", tmp_path / "file.pt", "--out", tmp_path / "model")
    assert result.code == 2
    assert "has no x_embedder.proj.weight" in result.err
    assert "the command of its own family" in result.err


@pytest.mark.parametrize("command", ["import-dit", "diffusers"])
def test_a_folder_of_other_things_is_never_replaced(tool, model_dir, tmp_path, command):
    torch.save(weights_of("dit"), tmp_path / "file.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    source = [tmp_path / "file.pt"] if command == "import-dit" else ["--model", model_dir]
    result = tool("export", command, *source, "--out", tmp_path / "out")
    assert result.code == 2
    assert "name another folder" in result.err
    assert (tmp_path / "out" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import-dit", "missing.pt", "--out", "x"], "no file missing.pt"),
        (["import-diffusers", "missing", "--out", "x"], "missing/config.json does not exist"),
        (["diffusers", "--model", "missing", "--out", "x"], "no model directory"),
        (["hub", "--model", "missing", "--repo", "me/name"], "no model directory"),
        (["import-min-snr", "file", "--out", "x", "--target", "score"], "invalid choice: 'score'"),
    ],
)
def test_bad_input_is_named(tool, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = tool("export", *arguments)
    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "x").exists()

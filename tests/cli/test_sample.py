import argparse
import errno
import functools
import importlib.metadata
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forking import Fork
from PIL import Image
from safetensors.torch import load_file, save_file

from latentdebias import Diffusion
from latentdebias.cli.sampling_arguments import add_sampling_arguments
from latentdebias.commands import opened_model
from latentdebias.drawing import sample_blocks
from latentdebias.errors import UserError
from latentdebias.sampling import SAMPLERS, ModelFacts

ROOT = Path(__file__).parents[2]
SMALL = ["--steps", 3]


def pngs(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_a_grid_single_images_and_an_npz(tool, model_dir, tmp_path):
    out = tmp_path / "out"
    arguments = ["--classes", "3,7", "--per-class", 2, "--format", "png,npz", "--out", out, *SMALL]
    result = tool("sample", "--model", model_dir, *arguments)
    assert result.code == 0, result.err
    images = pngs(out)
    names = [f"images/{label:04d}/{index:06d}.png" for index, label in enumerate([3, 3, 7, 7])]
    assert sorted(files(out)) == ["grid.png", *names, "samples.npz", "sampling.json"]
    assert images[names[0]].shape == (32, 32, 3)
    arrays = np.load(out / "samples.npz")
    assert arrays["arr_0"].shape == (4, 32, 32, 3)
    assert arrays["arr_0"].dtype == np.uint8
    assert arrays["arr_1"].tolist() == [3, 3, 7, 7]
    assert np.array_equal(arrays["arr_0"][2], images[names[2]])


def test_three_ranks_draw_the_bytes_of_one(tool, model_dir, tmp_path, monkeypatch):
    common = ["--model", model_dir, "--num", 10, "--labels", "random", "--batch-size", 3, *SMALL]
    common += ["--format", "npz,png,webdataset"]
    assert tool("sample", *common, "--out", tmp_path / "one").code == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        result = tool("sample", *common, "--out", tmp_path / "three", f"--local_rank={rank}")
        assert result.code == 0, result.err
        assert (tmp_path / "three" / "grid.png").exists() == (rank == 1)
    assert files(tmp_path / "three") == files(tmp_path / "one")


def test_a_killed_process_is_resumed_to_the_same_bytes(model_dir, tmp_path):
    arguments = ["sample", "--model", model_dir, "--num", 60, "--batch-size", 2, "--format", "npz", "--steps", 10]
    out = tmp_path / "killed"
    killed = Fork(*arguments, "--out", out)
    killed.wait_until(lambda: len(list(out.glob("blocks/*.tar"))) >= 3)
    killed.kill()
    assert not (out / "grid.png").exists()
    for folder in (out, tmp_path / "whole"):
        drawing = Fork(*arguments, "--out", folder)
        assert drawing.end() == 0, drawing.err
    assert files(out) == files(tmp_path / "whole")


def test_another_command_in_the_same_folder_is_refused_and_replace_draws_anew(tool, model_dir, tmp_path):
    out = tmp_path / "out"
    assert tool("sample", "--model", model_dir, "--num", 4, "--out", out, *SMALL).code == 0
    before = files(out)
    other = ["sample", "--model", model_dir, "--num", 2, "--seed", 3, "--out", out, *SMALL]
    result = tool(*other)
    assert result.code == 2
    assert "count was 4 and is now 2; seed was 0 and is now 3" in " ".join(result.err.split())
    assert files(out) == before
    assert tool(*other, "--replace").code == 0
    assert len(pngs(out / "images")) == 2


def test_other_weights_are_another_command(tool, model_dir, tmp_path):
    trained = tmp_path / "model"
    shutil.copytree(model_dir, trained)
    arguments = ["sample", "--model", trained, "--num", 2, "--out", tmp_path / "out", *SMALL]
    assert tool(*arguments).code == 0
    weights = load_file(trained / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, trained / "model.safetensors")
    result = tool(*arguments)
    assert result.code == 2
    assert "weights_sha256 was" in result.err
    assert "config_sha256" not in result.err


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp", "unipc", "{name: ddim, eta: 0.5}"])
def test_the_same_seed_draws_the_same_image_whatever_the_batch_size(tool, model_dir, tmp_path, sampler):
    common = ["--model", model_dir, "--num", 5, "--sampler", sampler, "--seed", 4, *SMALL]
    for size in (5, 2):
        assert tool("sample", *common, "--batch-size", size, "--out", tmp_path / str(size)).code == 0
    left, right = (pngs(tmp_path / str(size) / "images") for size in (5, 2))
    assert left.keys() == right.keys()
    for name, image in left.items():
        assert np.abs(image.astype(int) - right[name]).max() <= 1, name


def test_guidance_is_chosen_by_options_and_recorded(tool, model_dir, tmp_path):
    plain, chosen = tmp_path / "plain", tmp_path / "chosen"
    options = ["--guidance-interval", "0.1,0.9", "--guidance-schedule", "cosine", "--guidance-channels", 3]
    more = ["--guidance-rescale", 0.5, "--autoguidance", model_dir, "--sampler", "{name: heun, s_churn: 10}"]
    assert tool("sample", "--model", model_dir, "--num", 2, "--out", plain, *SMALL).code == 0
    result = tool("sample", "--model", model_dir, "--num", 2, "--out", chosen, *SMALL, *options, *more)
    assert result.code == 0, result.err
    assert not all(np.array_equal(pngs(chosen)[name], image) for name, image in pngs(plain).items())
    record = json.loads((chosen / "sampling.json").read_text())
    assert record["sampler"] == {"name": "heun", "s_churn": 10}
    assert record["guidance"]["interval"] == [0.1, 0.9]
    assert record["guidance"].items() >= {"scale": 1.5, "schedule": "cosine", "channels": 3, "rescale": 0.5}.items()
    assert record["autoguidance"] == str(model_dir)


def test_classes_may_be_named_and_num_spreads_over_them(tool, model_dir, tmp_path):
    assert tool("sample", "--model", model_dir, "--num", 12, "--out", tmp_path / "out", *SMALL).code == 0
    folders = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert folders == [f"{label:04d}" for label in range(10)]


def test_images_of_others_are_left_alone(tool, model_dir, tmp_path):
    foreign = tmp_path / "mine" / "images"
    foreign.mkdir(parents=True)
    (foreign / "holiday.png").write_bytes(b"mine")
    result = tool("sample", "--model", model_dir, "--num", 2, "--out", foreign.parent, "--replace", *SMALL)
    assert result.code == 2
    assert files(tmp_path) == {"mine/images/holiday.png": b"mine"}


def test_replace_is_refused_of_several_processes(tool, model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = tool("sample", "--model", model_dir, "--num", 2, "--out", tmp_path / "out", "--replace")
    assert result.code == 2
    assert "--replace is for one process" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--classes", "3,12"], "'12' is no class"),
        (["--classes", "three"], "'three' is no class"),
        (["--sampler", "dimm"], "Did you mean 'ddim'"),
        (["--sampler", "{name: ddim, eta: 2}"], "'eta'"),
        (["--sampler", "{name: ddim, etta: 1}"], "Did you mean 'eta'"),
        (["--sampler", "euler"], "choose sampler ddim"),
        (["--guidance-interval", "0.8,0.2"], "is empty"),
        (["--guidance-interval", "0.8"], "'guidance.interval"),
        (["--guidance-interval", "0,800"], "'guidance.interval"),
        (["--guidance-schedule", "cosin"], "Did you mean 'cosine'"),
        (["--guidance-rule", "cfg_zero"], "schedule flow"),
        (["--guidance-channels", "5"], "latents have 4"),
        (["--guidance-rescale", "2"], "'guidance.rescale'"),
        (["--guidance", "1", "--guidance-channels", "3"], "would do nothing"),
        (["--zero-init", "1"], "not flow"),
        (["--autoguidance", "/nowhere"], "no model directory"),
        (["--steps", "0"], "'steps'"),
        (["--steps", "1001"], "1000"),
        (["--steps", "ten"], "'ten'"),
        (["--guidance", "much"], "'much'"),
        (["--seed", "-1"], "'seed'"),
        (["--num", "0"], "at least 1"),
        (["--vae", "/nowhere/vae"], "/nowhere/vae"),
        (["--model", "/nowhere"], "no model directory"),
        (["--num", "-5"], "at least 1"),
        (["--per-class", "0"], "at least 1"),
        (["--classes", "³"], "'³' is no class"),
        (["--device", "foo"], "--device 'foo' cannot be used"),
        (["--precision", "fp64"], "'precision'"),
        (["--format", "png,jpg"], "'jpg'"),
        (["--format", ""], "sample format ''"),
        (["--labels", "random"], "needs --num"),
        (["--labels", "some", "--num", "3"], "invalid choice"),
        (["--out", "/dev/null/out"], "no folder /dev/null"),
    ],
)
def test_bad_input_is_code_2_and_writes_nothing(tool, model_dir, tmp_path, arguments, words):
    result = tool("sample", "--model", model_dir, "--out", tmp_path / "out", *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()
    assert not Path("/nowhere").exists()


def test_a_full_disk_is_a_users_error_and_the_same_command_goes_on(tool, model_dir, tmp_path, monkeypatch):
    out, arguments = tmp_path / "out", ["sample", "--model", model_dir, "--num", 6, "--batch-size", 2, *SMALL]
    assert tool(*arguments, "--out", tmp_path / "whole").code == 0
    real, calls = sample_blocks._png_bytes, []

    def full(image):
        calls.append(image)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(image)

    monkeypatch.setattr(sample_blocks, "_png_bytes", full)
    result = tool(*arguments, "--out", out)
    assert result.code == 2
    assert "No space left" in result.err
    assert sorted(files(out)) == ["blocks/block-000000.tar", "sampling.json"]
    assert tool(*arguments, "--out", out).code == 0
    assert len(calls) == 4 + 4
    assert files(out) == files(tmp_path / "whole")


def test_a_compiled_backbone_draws_the_same_images_but_for_rounding(tool, model_dir, tmp_path, monkeypatch):
    """Traced and run without generated code, which takes a minute to make."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    for name, options in {"plain": [], "compiled": ["--compile"]}.items():
        arguments = ["--num", 5, "--batch-size", 2, "--out", tmp_path / name, *options, *SMALL]
        result = tool("sample", "--model", model_dir, *arguments)
        assert result.code == 0, result.err
    plain, compiled = (np.stack(list(pngs(tmp_path / name / "images").values())) for name in ("plain", "compiled"))
    assert np.abs(plain.astype(int) - compiled).max() <= 1
    assert json.loads((tmp_path / "compiled" / "sampling.json").read_text())["compile"] is True


def test_a_missing_compiler_is_a_users_error(tool, model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    # Its own patch, for monkeypatch would leave the option deleted.
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        torch._dynamo.reset()
        result = tool("sample", "--model", model_dir, "--num", 2, "--compile", "--out", tmp_path / "out", *SMALL)
    assert result.code == 2
    assert "leave --compile out" in result.err
    assert "Traceback" not in result.err


def test_bf16_draws_nearly_the_same_images(tool, model_dir, tmp_path):
    for precision in ("fp32", "bf16"):
        arguments = ["--num", 4, "--precision", precision, "--out", tmp_path / precision, *SMALL]
        assert tool("sample", "--model", model_dir, *arguments).code == 0
    full, half = (np.stack(list(pngs(tmp_path / name / "images").values())).astype(int) for name in ("fp32", "bf16"))
    assert 0 < np.abs(full - half).mean() < 5


def test_parts_of_installed_plugins_are_known(tool, model_dir, tmp_path, monkeypatch):
    class Entry:
        def load(self):
            monkeypatch.setitem(SAMPLERS._entries, "installed", SAMPLERS._entries["ddim"])

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    drawn = tool(
        "sample", "--model", model_dir, "--out", tmp_path / "out", "--num", 1, "--steps", 1, "--sampler", "installed"
    )
    assert drawn.code == 0, drawn.err


@dataclass(frozen=True)
class Config:
    num_classes: int
    class_names: list[str]
    latent_shape: tuple[int, int, int] = (4, 4, 4)


@dataclass(frozen=True)
class Model:
    """As much of a model as the options are read against."""

    config: Config
    diffusion: Diffusion = field(default_factory=lambda: Diffusion("linear", "v"))
    weaker: None = None

    @property
    def latent_model(self):
        return SimpleNamespace(facts=ModelFacts(self.diffusion, self.config.latent_shape[0], self.config.num_classes))


def test_a_class_name_wins_over_the_same_number():
    """Twelve folders named by number stand in the order of text: 0, 1, 10, 11, 2."""
    model = Model(Config(12, sorted(str(number) for number in range(12))))
    assert opened_model.parse_classes("2, 10", model) == [4, 2]


def test_a_class_without_a_name_goes_by_number():
    assert opened_model.parse_classes("2,10", Model(Config(12, []))) == [2, 10]
    assert opened_model.parse_classes("dog,0", Model(Config(2, ["cat", "dog"]))) == [1, 0]


@pytest.mark.parametrize(
    ("num_classes", "given", "guidance"),
    [(10, [], 1.5), (0, [], 1), (0, ["--guidance", "1"], 1), (10, ["--guidance", "3"], 3)],
)
def test_guidance_is_on_by_default_where_there_are_classes(monkeypatch, num_classes, given, guidance):
    monkeypatch.setattr(opened_model, "load_model", lambda directory, device: Model(Config(num_classes, [])))
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    _, options = opened_model.open_model(argparse.Namespace(model="model", **vars(parser.parse_args(given))))
    assert options.guidance.scale == guidance


def test_guidance_of_a_model_without_classes_is_refused(monkeypatch):
    monkeypatch.setattr(opened_model, "load_model", lambda directory, device: Model(Config(0, [])))
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    given = argparse.Namespace(model="model", **vars(parser.parse_args(["--guidance", "1.5"])))
    with pytest.raises(UserError, match="unconditional"):
        opened_model.open_model(given)

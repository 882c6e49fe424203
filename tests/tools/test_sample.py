import argparse
import errno
import importlib
import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdebias import Diffusion
from latentdebias.errors import UserError
from latentdebias.sampling import SAMPLERS, sample_folder

TOOLS = Path(__file__).parents[2] / "tools"
SMALL = ["--steps", 3]


def pngs(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_it_writes_a_grid_single_images_and_an_npz(tool, model_dir, tmp_path):
    out, npz = tmp_path / "out", tmp_path / "samples.npz"
    result = tool(
        "sample", "--model", model_dir, "--classes", "3,7", "--per-class", 2, "--out", out, "--npz", npz, *SMALL
    )
    assert result.code == 0, result.err
    images = pngs(out)
    names = [f"images/{label:04d}/{index:06d}.png" for index, label in enumerate([3, 3, 7, 7])]
    assert sorted(images) == ["grid.png", *names]
    assert images[names[0]].shape == (32, 32, 3)
    arrays = np.load(npz)
    assert arrays["arr_0"].shape == (4, 32, 32, 3)
    assert arrays["arr_0"].dtype == np.uint8
    assert arrays["arr_1"].tolist() == [3, 3, 7, 7]
    assert np.array_equal(arrays["arr_0"][2], images[names[2]])


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
    assert record["guidance_interval"] == [0.1, 0.9]
    assert (record["guidance_schedule"], record["guidance_channels"], record["guidance_rescale"]) == ("cosine", 3, 0.5)
    assert record["autoguidance"] == str(model_dir)


def test_classes_may_be_named_and_num_spreads_over_them(tool, model_dir, tmp_path):
    assert tool("sample", "--model", model_dir, "--num", 12, "--out", tmp_path / "out", *SMALL).code == 0
    folders = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert folders == [f"{label:04d}" for label in range(10)]


def test_a_second_call_replaces_its_own_images_and_leaves_others_alone(tool, model_dir, tmp_path):
    out = tmp_path / "out"
    for count in (4, 2):
        assert tool("sample", "--model", model_dir, "--num", count, "--out", out, *SMALL).code == 0
    assert len(pngs(out / "images")) == 2
    foreign = tmp_path / "mine" / "images"
    foreign.mkdir(parents=True)
    (foreign / "holiday.png").write_bytes(b"mine")
    result = tool("sample", "--model", model_dir, "--num", 2, "--out", foreign.parent, *SMALL)
    assert result.code == 2
    assert (foreign / "holiday.png").read_bytes() == b"mine"


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
        (["--guidance-interval", "0.8"], "'guidance_interval"),
        (["--guidance-interval", "0,800"], "'guidance_interval"),
        (["--guidance-schedule", "cosin"], "Did you mean 'cosine'"),
        (["--guidance-rule", "cfg_zero"], "schedule flow"),
        (["--guidance-channels", "5"], "latents have 4"),
        (["--guidance-rescale", "2"], "'guidance_rescale'"),
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
        (["--npz", "/nowhere/x.npz"], "no folder /nowhere"),
        (["--npz", "x.npy"], "does not end in .npz"),
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


def test_a_draw_that_fails_midway_leaves_the_old_set(tool, model_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert tool("sample", "--model", model_dir, "--num", 4, "--out", out, *SMALL).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    real, calls = sample_folder.save_png, []

    def full(image, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(image, path)

    monkeypatch.setattr(sample_folder, "save_png", full)
    result = tool("sample", "--model", model_dir, "--num", 4, "--seed", 1, "--out", out, *SMALL)
    assert result.code == 2
    assert "No space left" in result.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (out / "images.new").exists()


def test_bf16_draws_nearly_the_same_images(tool, model_dir, tmp_path):
    for precision in ("fp32", "bf16"):
        arguments = ["--num", 4, "--precision", precision, "--out", tmp_path / precision, *SMALL]
        assert tool("sample", "--model", model_dir, *arguments).code == 0
    full, half = (np.stack(list(pngs(tmp_path / name / "images").values())).astype(int) for name in ("fp32", "bf16"))
    assert 0 < np.abs(full - half).mean() < 5


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_parts_of_installed_plugins_are_known(tool, monkeypatch, name):
    class Entry:
        def load(self):
            monkeypatch.setitem(SAMPLERS._entries, "installed", SAMPLERS._entries["ddim"])

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    assert "installed" in tool(name, "--help").out


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


@pytest.fixture
def arguments_module(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("sampling_arguments")


def test_a_class_name_wins_over_the_same_number(arguments_module):
    """Twelve folders named by number stand in the order of text: 0, 1, 10, 11, 2."""
    model = Model(Config(12, sorted(str(number) for number in range(12))))
    assert arguments_module.parse_classes("2, 10", model) == [4, 2]


def test_a_class_without_a_name_goes_by_number(arguments_module):
    assert arguments_module.parse_classes("2,10", Model(Config(12, []))) == [2, 10]
    assert arguments_module.parse_classes("dog,0", Model(Config(2, ["cat", "dog"]))) == [1, 0]


@pytest.mark.parametrize(
    ("num_classes", "given", "guidance"),
    [(10, [], 1.5), (0, [], 1), (0, ["--guidance", "1"], 1), (10, ["--guidance", "3"], 3)],
)
def test_guidance_is_on_by_default_where_there_are_classes(arguments_module, monkeypatch, num_classes, given, guidance):
    monkeypatch.setattr(arguments_module, "load_model", lambda directory, device: Model(Config(num_classes, [])))
    parser = argparse.ArgumentParser()
    arguments_module.add_sampling_arguments(parser)
    _, options = arguments_module.open_model(argparse.Namespace(model="model", **vars(parser.parse_args(given))))
    assert options.guidance == guidance


def test_guidance_of_a_model_without_classes_is_refused(arguments_module, monkeypatch):
    monkeypatch.setattr(arguments_module, "load_model", lambda directory, device: Model(Config(0, [])))
    parser = argparse.ArgumentParser()
    arguments_module.add_sampling_arguments(parser)
    given = argparse.Namespace(model="model", **vars(parser.parse_args(["--guidance", "1.5"])))
    with pytest.raises(UserError, match="unconditional"):
        arguments_module.open_model(given)

"""A folder in which the commands of the documentation run in seconds: few steps, tiny networks, digits for photos."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from doc_blocks import ROOT, parsed
from interop.published.test_published import dit_file

from latentdebias.autoencoders import AUTOENCODERS
from latentdebias.backbones import BACKBONES, DiTSpec
from latentdebias.cli import main
from latentdebias.config import load_config
from latentdebias.diffusion.weightings import WEIGHTINGS
from latentdebias.evaluation.metrics import METRICS
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.hooks import HOOKS

TRAIN = {
    "training.steps": 2,
    "training.batch_size": 4,
    "training.sample_every": 0,
    "training.precision": "fp32",
    "data.workers": 0,
}
# What a shipped config states of its shards, which here are of smaller images and another autoencoder.
OWN_SHARDS = [f"data.{key}=null" for key in ("vae", "resolution", "latent_shape")]
SMALL_DIT = "model={name: dit, width: 32, depth: 2, heads: 2}"


@pytest.fixture(scope="session")
def demo_run(digit_shards, process_group, tmp_path_factory) -> Path:
    """The run directory of a small DiT that trained on the digits for a few steps."""
    run_dir = tmp_path_factory.mktemp("demo") / "digits_debias"
    settings = {**TRAIN, "training.batch_size": 32, "run_dir": run_dir, "data.shards": digit_shards}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    Run(prepare(load_config("digits_debias.yaml", [*overrides, SMALL_DIT]))).train()
    return run_dir


@pytest.fixture
def own_parts(monkeypatch):
    """What a test registers, and the modules `my_*` that it imports, are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    for registry in (AUTOENCODERS, BACKBONES, HOOKS, METRICS, WEIGHTINGS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield
    for module in set(sys.modules) - modules:
        if module.startswith("my_"):
            sys.modules.pop(module)


@pytest.fixture
def workspace(demo_run, digit_images, digit_shards, tmp_path, own_parts, monkeypatch) -> Path:
    """The current folder: what the demo leaves, `photos/` of ten classes, a file in DiT's layout, examples, configs."""
    (tmp_path / "demo").mkdir()
    for name, path in {"images": digit_images, "shards": digit_shards, "digits_debias": demo_run}.items():
        (tmp_path / "demo" / name).symlink_to(path)
    for path in digit_images.glob("*/000[0-2].png"):
        (tmp_path / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "photos" / path.parent.name)
    torch.save(dit_file(tokens=4), tmp_path / "DiT-XL-2-256x256.pt")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_tiny(workspace, tiny_vae_dir):
    """Run a command of the documentation in this process, with what makes it tiny after its own arguments."""

    def run(name: str, arguments: list[str]) -> None:
        arguments = [str(tiny_vae_dir) if word.startswith("stabilityai/") else word for word in arguments]
        given = parsed(name, arguments)
        if name == "train":
            _train(given)
            return
        subcommand = " ".join([name, *arguments[:1]])
        tiny = TINY.get(subcommand) or TINY.get(name if arguments[:1] and arguments[0].startswith("-") else subcommand)
        main([name, *arguments, *(tiny(given, tiny_vae_dir) if tiny else [])])

    return run


def _train(given) -> None:
    overrides = [*given.overrides, *(f"{key}={value}" for key, value in TRAIN.items()), *OWN_SHARDS]
    if isinstance(load_config(given.config, given.overrides).model, DiTSpec):
        overrides.append(SMALL_DIT)
    Run(prepare(load_config(given.config, overrides))).train()


def _encode(given, vae: Path) -> list[str]:
    small = ["--resolution", "32", "--workers", "0", "--max-rejects", "0.5"]
    return small if "vae" in given else [*small, "--vae", str(vae)]


def _plan(given, vae: Path) -> list[str]:
    changes = [SMALL_DIT, *(OWN_SHARDS if Path(given.config).exists() else [])]
    return [word for change in changes for word in ("--set", change)]


def _evaluate(given, vae: Path) -> list[str]:
    few = ["--num", "8", "--resamples", "0", "--cache", "cache"] + (["--steps", "2"] if given.model else [])
    return few if given.extractor else [*few, "--extractor", "pixels"]


TINY = {
    "encode": _encode,
    "plan": _plan,
    "sample": lambda *_: ["--steps", "2"],
    "evaluate": _evaluate,
    "evaluate colour-shift": lambda *_: ["--num", "8", "--steps", "1,2", "--cache", "cache"],
    "export import-dit": lambda given, vae: ["--heads", "2", "--vae", str(vae)],
    "analyze error-by-t": lambda *_: ["--num", "16", "--points", "4", "--tail-points", "2"],
    "analyze steps": lambda *_: ["--images", "20", "--steps", "1,2"],
}

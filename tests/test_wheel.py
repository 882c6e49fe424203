"""The installed wheel does the whole job from an empty folder, without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from latentdebias.digits import write_images
from latentdebias.version import __version__

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheel, and with the dependencies of the environment that runs the tests.

    Those come from a .pth, so the wheel's own folder wins over an editable install among them, whose own .pth is not
    read from there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, for a build folder that an earlier build left in the checkout would end up in the wheel.
    for name in ("latentdebias", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source"]
    subprocess.run([*PIP, *build], check=True)
    [wheel] = folder.glob("latentdebias-*.whl")
    assert f"-{__version__}-" in wheel.name
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin"


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """Run a command from a folder that holds nothing but what commands before it wrote."""
    folder = tmp_path_factory.mktemp("empty")
    left_out = {"PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["LATENTDEBIAS_CACHE"] = str(folder / "cache")

    def run_in_folder(name: str, *arguments: object) -> str:
        words = [str(installed / name), *map(str, arguments)]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    run_in_folder.folder = folder
    return run_in_folder


def test_the_wheel_is_what_is_imported(run, installed):
    code = "import latentdebias, latentdebias.config as config; print(latentdebias.__file__, config.CONFIG_DIR)"
    where = run("python", "-c", code)
    for path in where.split():
        assert Path(path).is_relative_to(installed.parent)
    assert run("latentdebias", "--version").strip() == __version__
    assert "commands:" in run("latentdebias", "--help")


def test_encode_train_sample_and_evaluate_the_digits(run):
    write_images(run.folder / "images")
    run("latentdebias", "encode", "--images", "images", "--out", "shards", "--vae", "digits", "--resolution", 32)
    small = ["model.width=32", "model.depth=2", "model.heads=2", "training.batch_size=8", "training.steps=4"]
    small += ["training.sample_every=0", "deepspeed.zero_optimization.reduce_bucket_size=1000000"]
    sets = [part for each in ["run_dir=run", "data.shards=shards", *small] for part in ("--set", each)]
    run("latentdebias", "train", "--config", "digits_debias.yaml", *sets)
    run("latentdebias", "sample", "--model", "run/model", "--num", 20, "--steps", 2, "--out", "samples")
    scores = ["--reference", "images", "--extractor", "digits", "--metrics", "fid", "--resamples", 0]
    assert "fid" in run("latentdebias", "evaluate", "--samples", "samples", *scores)
    assert (run.folder / "samples" / "evaluation.json").is_file()

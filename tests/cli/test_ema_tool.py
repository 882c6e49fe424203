"""tools/ema.py on a run of seconds, and tools/train.py --export --ema."""

import shutil
import sys

import pytest
import torch

import latentdebias
from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run


@pytest.fixture(scope="module")
def run(digit_shards, process_group, tmp_path_factory):
    """A run that has ended, for tests that leave its snapshots as they are."""
    small = ["model.width=32", "model.depth=2", "model.heads=2", "training.batch_size=8", "training.steps=8"]
    quiet = ["training.sample_every=0", "training.checkpoint_every=8"]
    averages = ["ema.stds=[0.05,0.1]", "ema.snapshot_every=2", "deepspeed.zero_optimization.reduce_bucket_size=1000000"]
    places = [f"run_dir={tmp_path_factory.mktemp('averages') / 'run'}", f"data.shards={digit_shards}"]
    config = load_config("digits_debias.yaml", [*places, *small, *quiet, *averages])
    run = Run(prepare(config))
    run.train()
    return run


def test_a_reconstructed_model_is_the_average_and_draws(run, tool, tmp_path):
    done = tool("ema", "--run", run.run_dir, "--std", "0.1", "--out", tmp_path / "model")
    assert done.code == 0, done.err
    assert "profile error 0.00%" in done.out
    model = latentdebias.load_model(tmp_path / "model")
    assert (model.config.ema, model.config.step) == ("std0.100", 8)
    with run.ema.swapped_in("std0.100"):
        expected = run.zero_state.gathered_weights()
    for name, weight in model.backbone.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=2e-3, atol=1e-5)
    drawn = ["--num", "2", "--steps", "2", "--device", "cpu", "--out", tmp_path / "drawn"]
    assert tool("sample", "--model", tmp_path / "model", *drawn).code == 0


def test_another_width_at_an_earlier_step_is_reconstructed(run, tool, tmp_path):
    arguments = ["--run", run.run_dir, "--std", "0.12", "--step", "6", "--out", tmp_path / "model"]
    assert tool("ema", *arguments).code == 0
    config = latentdebias.load_model(tmp_path / "model").config
    assert (config.ema, config.step) == ("std0.120", 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--std", "0.12", "--step", "9"], "from step 2 to step 8"),
        (["--std", "0.12", "--step", "1"], "from step 2 to step 8"),
        (["--std", "0.4"], "0.001 to 0.288"),
        (["--std", "0.1234"], "the nearest is 0.123"),
    ],
)
def test_what_cannot_be_reconstructed_is_one_paragraph_and_code_2(run, tool, tmp_path, options, words):
    done = tool("ema", "--run", run.run_dir, *options, "--out", tmp_path / "model")
    assert done.code == 2
    assert words in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "model").exists()


def test_a_run_without_snapshots_says_how_to_get_them(tool, tmp_path):
    done = tool("ema", "--run", tmp_path, "--std", "0.1", "--out", tmp_path / "model")
    assert done.code == 2
    assert "ema.snapshot_every=N" in done.err


def test_a_damaged_snapshot_is_named(run, tool, tmp_path):
    shutil.copytree(run.run_dir / "ema", tmp_path / "run" / "ema")
    path = tmp_path / "run" / "ema" / "step-00000004-std0.050.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    done = tool("ema", "--run", tmp_path / "run", "--std", "0.1", "--out", tmp_path / "model")
    assert done.code == 2
    assert str(path) in done.err


def test_a_folder_of_other_things_is_not_replaced(run, tool, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    done = tool("ema", "--run", run.run_dir, "--std", "0.1", "--out", tmp_path / "mine")
    assert done.code == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_averages_are_exported_by_name(launch, tool, run):
    export = ["--config", str(run.run_dir / "config.yaml"), "--export", "--ema"]
    done = launch(sys.executable, "tools/train.py", *export, "std0.050")
    assert done.code == 0, done.err
    assert latentdebias.load_model(run.run_dir / "model").config.ema == "std0.050"
    refused = tool("train", *export, "std0.06")
    assert refused.code == 2
    assert "0.998, none, std0.050, std0.100" in refused.err

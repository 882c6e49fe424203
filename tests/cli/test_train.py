"""The launcher, several ranks, and what bad input gets."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from launching import deepspeed

from latentdebias import load_model
from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run

ROOT = Path(__file__).parents[2]
DEEPSPEED = str(Path(sys.executable).with_name("deepspeed"))


def sets(overrides):
    return [part for override in overrides for part in ("--set", override)]


def losses(run_dir):
    return {row["step"]: row["loss"] for row in map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())}


@pytest.fixture
def trained_on_two_ranks(launch, small_run, tmp_path):
    """Runs in stage0 to stage3 and checkpointed (blocks, at stage 3), with checkpoints after steps 2 and 4."""
    script = str(Path(__file__).with_name("train_all_stages.py"))
    done = launch(*deepspeed(), script, tmp_path, *small_run)
    assert done.code == 0, done.err
    return tmp_path


@pytest.mark.launcher
def test_every_stage_trains_alike_on_two_ranks_and_on_one(trained_on_two_ranks, small_run, process_group):
    alone = [*small_run, f"run_dir={trained_on_two_ranks / 'alone'}"]
    train_here(*alone)
    expected = losses(trained_on_two_ranks / "alone")
    for stage in range(4):
        folder = trained_on_two_ranks / f"stage{stage}"
        assert list(losses(folder).values()) == pytest.approx(list(expected.values()), rel=2e-4), stage
        resumes_on_one_rank(folder, small_run, another_stage=(stage + 1) % 4)
    whole, parts = (losses(trained_on_two_ranks / name) for name in ("accumulated", "parts"))
    assert parts == whole
    checkpointed = losses(trained_on_two_ranks / "checkpointed")
    assert list(checkpointed.values()) == pytest.approx(list(expected.values()), rel=2e-4)


def train_here(*overrides):
    config = load_config("digits_debias.yaml", overrides)
    Run(prepare(config)).train()


def resumes_on_one_rank(folder, small_run, another_stage):
    """Weights after a resume at step 2 on one rank and at another ZeRO stage are those of two ranks."""
    expected, weights = losses(folder), load_model(folder / "model").backbone.state_dict()
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    train_here(*small_run, f"run_dir={folder}", f"deepspeed.zero_optimization.stage={another_stage}")
    assert list(losses(folder).values()) == pytest.approx(list(expected.values()), rel=2e-4)
    for name, weight in load_model(folder / "model").backbone.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-5)


@pytest.mark.launcher
def test_the_launcher_says_which_shards_imagenet_lacks_and_how_to_make_them(launch):
    done = launch(DEEPSPEED, "--num_gpus", "1", "tools/train.py", "--config", "imagenet256_debias.yaml")
    assert done.code == 2
    assert "model dit_xl_patch2: 675.1M parameters" in done.out
    assert "shards/imagenet256" in done.err
    assert "python tools/encode.py --images" in done.err
    assert "--vae stabilityai/sd-vae-ft-mse --resolution 256 --flip" in done.err
    assert "Traceback" not in done.err
    assert not (ROOT / "runs" / "imagenet256_debias").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere.yaml"], "no config 'nowhere.yaml'"),
        (["--config", "digits_debias.yaml", "--set", "training.stepz=1"], "Did you mean 'steps'"),
        (["--config", "digits_debias.yaml", "--set", "diffusion.weighting=debais"], "Did you mean 'debias'"),
        (["--config", "digits_debias.yaml", "--set", "diffusion.weighting.powr=1"], "Did you mean 'power'"),
        (["--config", "digits_debias.yaml", "--set", "model.name=dit_xl_patch3"], "Did you mean 'dit_xl_patch"),
        (["--config", "digits_debias.yaml", "--set", "model.patch_size=3"], "do not tile"),
        (["--config", "digits_debias.yaml", "--set", "deepspeed.gradient_cliping=1"], "deepspeed.gradient_cliping"),
        (["--config", "digits_debias.yaml", "--set", "data.shards=/nowhere"], "/nowhere"),
        (["--config", "digits_debias.yaml", "--set", "imports=[my_missing_module]"], "my_missing_module"),
        (["--config", "digits_debias.yaml", "--set", "sampling.sampler=dimm"], "Did you mean 'ddim'"),
    ],
)
def test_bad_input_is_one_paragraph_and_code_2(tool, arguments, words, tmp_path):
    result = tool("train", *arguments, "--set", f"run_dir={tmp_path / 'run'}")
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()

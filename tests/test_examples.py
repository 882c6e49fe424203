"""Every program in examples/ runs, on tiny sizes, as its README says."""

import math
import re
import shutil
import sys
from pathlib import Path

import pytest
from diffusers import DDPMPipeline
from forking import ScriptFork

from latentdebias.autoencoders import AUTOENCODERS
from latentdebias.backbones import BACKBONES
from latentdebias.cli import main
from latentdebias.config import load_config
from latentdebias.diffusion.weightings import WEIGHTINGS
from latentdebias.evaluation.metrics import METRICS
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.hooks import HOOKS

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES.parent


def run(script, *arguments, cwd=EXAMPLES):
    fork = ScriptFork(cwd / script, *arguments, cwd=cwd)
    assert fork.end() == 0, fork.err
    return fork.out


def losses(output):
    return [float(loss) for loss in re.findall(r"loss (\S+)", output)]


def test_the_loss_inside_a_diffusers_and_accelerate_loop(tmp_path):
    output = run("diffusers_training_loop.py", "--steps", 12, "--out", tmp_path / "unet")
    curve = losses(output)
    assert len(curve) == 12
    assert all(map(math.isfinite, curve))
    assert sum(curve[-4:]) < sum(curve[:4])
    assert DDPMPipeline.from_pretrained(tmp_path / "unet").scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("script", ["text_to_image_finetuning.py", "lightning_module.py"])
def test_the_loss_inside_other_trainers(script):
    curve = losses(run(script, "--steps", 4))
    assert len(curve) == 4
    assert all(map(math.isfinite, curve))


def test_a_dinov3_style_vit_denoises():
    name = "vit_small_patch16_dinov3"
    curve = losses(run("timm_dinov3_denoiser.py", "--timm-name", name, "--steps", 4))
    assert len(curve) == 4
    assert all(map(math.isfinite, curve))


def test_own_parts_are_named_from_yaml_trained_and_drawn(digit_shards, tmp_path):
    small = ["training.steps=4", "training.batch_size=16", "training.log_every=1", "training.sample_every=0"]
    overrides = [f"run_dir={tmp_path / 'run'}", f"data.shards={digit_shards}", "model.width=8", *small]
    options = [option for override in overrides for option in ("--set", override)]
    run(ROOT / "tools" / "train.py", "--config", "run.yaml", *options, cwd=EXAMPLES / "own_parts")
    config = (tmp_path / "run" / "model" / "config.yaml").read_text()
    assert "name: my_convnet" in config
    assert "name: my_sigmoid" in config
    drawn = ["--model", tmp_path / "run" / "model", "--num", 2, "--steps", 2, "--out", tmp_path / "drawn"]
    assert "2 images" in run(ROOT / "tools" / "sample.py", *drawn, cwd=EXAMPLES / "own_parts")


@pytest.fixture
def own_parts(monkeypatch):
    """This process in examples/own_parts; what its modules register is forgotten afterwards."""
    folder = EXAMPLES / "own_parts"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for registry in (AUTOENCODERS, BACKBONES, HOOKS, METRICS, WEIGHTINGS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield
    for module in ("my_parts", "my_autoencoder_metric_hook"):
        sys.modules.pop(module, None)


def test_an_own_autoencoder_metric_and_hook_encode_train_and_score(
    own_parts, process_group, digit_images, tmp_path, capsys
):
    """Digits 0 and 1, of which a few steps are enough to see each part at work."""
    images = tmp_path / "images"
    for path in sorted(digit_images.glob("[01]/000?.png")):
        (images / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, images / path.parent.name)
    own = ["--imports", "my_autoencoder_metric_hook"]
    encode = ["--images", str(images), "--vae", "my_half_size", "--resolution", "32", "--workers", "0"]
    main(["encode", *own, *encode, "--out", str(tmp_path / "set")])
    assert "20 images in 1 shards" in capsys.readouterr().out

    small = ["training.steps=5", "training.batch_size=4", "training.sample_every=0", "model.width=8"]
    overrides = [f"run_dir={tmp_path / 'run'}", f"data.shards={tmp_path / 'set'}", "data.num_classes=2", *small]
    Run(prepare(load_config("hook.yaml", overrides))).train()
    assert (tmp_path / "run" / "progress.txt").read_text() == "step 4\n"

    score = ["--metrics", "my_red_cast", "--extractor", "pixels", "--cache", str(tmp_path), "--resamples", "0"]
    sets = ["--samples", str(images / "0"), "--reference", str(images / "1")]
    main(["evaluate", *own, *score, *sets, "--out", str(tmp_path / "scores.json")])
    assert re.search(r"my_red_cast -?\d", capsys.readouterr().out)

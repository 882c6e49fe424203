"""Every program in examples/ runs, on tiny sizes, as its README says."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

from diffusers import DDPMPipeline
from launching import environment_without_launcher

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES.parent


def run(script, *arguments, cwd=EXAMPLES):
    alone = environment_without_launcher()
    command, threads = [sys.executable, str(script), *map(str, arguments)], {"OMP_NUM_THREADS": "1"}
    environment = {**alone, **threads, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(output):
    return [float(loss) for loss in re.findall(r"loss (\S+)", output)]


def test_the_loss_inside_a_diffusers_and_accelerate_loop(tmp_path):
    output = run("diffusers_training_loop.py", "--steps", 12, "--out", tmp_path / "unet")
    curve = losses(output)
    assert len(curve) == 12
    assert all(map(math.isfinite, curve))
    assert sum(curve[-4:]) < sum(curve[:4])
    assert DDPMPipeline.from_pretrained(tmp_path / "unet").scheduler.config.prediction_type == "epsilon"


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


def test_an_own_autoencoder_metric_and_hook_encode_train_and_score(digit_images, tmp_path):
    """The classes 0 and 1 alone, which is enough to see each part at work."""
    module, folder, images = "my_autoencoder_metric_hook", EXAMPLES / "own_parts", tmp_path / "images"
    for label in (0, 1):
        shutil.copytree(digit_images / str(label), images / str(label))
    own = ["--imports", module]
    encode = [
        "--images",
        images,
        "--vae",
        "my_half_size",
        "--resolution",
        32,
        "--workers",
        0,
        "--out",
        tmp_path / "set",
    ]
    assert "images in 1 shards" in run(ROOT / "tools" / "encode.py", *own, *encode, cwd=folder)
    small = ["training.steps=5", "training.batch_size=16", "training.sample_every=0", "model.width=8"]
    overrides = [f"run_dir={tmp_path / 'run'}", f"data.shards={tmp_path / 'set'}", "data.num_classes=2", *small]
    options = [option for override in overrides for option in ("--set", override)]
    run(ROOT / "tools" / "train.py", "--config", "hook.yaml", *options, cwd=folder)
    assert (tmp_path / "run" / "progress.txt").read_text() == "step 4\n"
    score = [
        "--metrics",
        "my_red_cast",
        "--extractor",
        "pixels",
        "--samples",
        images / "0",
        "--reference",
        images / "1",
    ]
    output = run(ROOT / "tools" / "evaluate.py", *own, *score, "--out", tmp_path / "scores.json", cwd=folder)
    assert re.search(r"my_red_cast -?\d", output)

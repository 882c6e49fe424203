"""`latentdebias plan` as a user runs it."""

import pytest


def test_the_table_of_dit_xl(tool):
    done = tool("plan", "--config", "imagenet256_debias.yaml", "--gpus", 8, "--gpu", "a100", "--steps", 7_000_000)
    assert done.code == 0
    assert "675.1M parameters" in done.out
    assert "237.2 GFLOP forward, 711.7 to train" in done.out
    assert "47.23 GB for 1,281,167 images (data.num_images of the config)" in done.out
    assert "36,864 bytes an image" in done.out
    assert "assumed: data.vae 'stabilityai/sd-vae-ft-mse' is not on this machine" in done.out
    # 7e6 x 256 x 711.7e9 / (8 x 312e12 x 0.4) s
    assert "14.78 days" in done.out
    assert [line.split()[1] for line in done.out.splitlines() if line.startswith("stage")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", 1000], "0.40 GB for 1,000 images (--images)"),
        (["--set", "data.num_images=null"], "number of images not stated: --images N"),
    ],
)
def test_the_number_of_images_is_given_or_left_open(tool, arguments, words):
    small = ["--set", "model={name: dit, width: 16, depth: 1, heads: 2, patch_size: 64}"]
    done = tool("plan", "--config", "ffhq256_debias.yaml", "--gpus", 8, *small, *arguments)
    assert done.code == 0
    assert words in done.out
    assert "396,288 bytes an image" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpus", 8, "--gpu", "h10"], "Did you mean 'h100'?"),
        (["--gpus", 0], "--gpus: 0 is not at least 1"),
        (["--gpus", 7], "not a multiple of 7"),
        (["--gpus", 8, "--utilisation", 40], "--utilisation: 40 is no share"),
        (["--gpus", 8, "--set", "training.stepz=1"], "training.stepz"),
        (["--gpus", 256, "--set", "diffusion.terms=[contrastive]"], "compares pairs of samples"),
        (["--gpus", 8, "--set", "diffusion.timesteps={name: laplace, mu: 20}"], "never draw"),
        (["--gpus", 8, "--set", "optimizer={name: timm, opt: muon, lr: 1.0e-3}"], "looks at whole parameters"),
    ],
)
def test_bad_input_is_one_paragraph(tool, arguments, words):
    done = tool("plan", "--config", "imagenet256_debias.yaml", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err

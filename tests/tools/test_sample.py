import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp"])
def test_the_same_seed_draws_the_same_image_whatever_the_batch_size(tool, model_dir, tmp_path, sampler):
    common = ["--model", model_dir, "--num", 5, "--sampler", sampler, "--seed", 4, *SMALL]
    for size in (5, 2):
        assert tool("sample", *common, "--batch-size", size, "--out", tmp_path / str(size)).code == 0
    left, right = (pngs(tmp_path / str(size) / "images") for size in (5, 2))
    assert left.keys() == right.keys()
    for name, image in left.items():
        assert np.abs(image.astype(int) - right[name]).max() <= 1, name


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
        (["--steps", "0"], "'steps'"),
        (["--steps", "1001"], "1000"),
        (["--steps", "ten"], "'ten'"),
        (["--guidance", "much"], "'much'"),
        (["--seed", "-1"], "'seed'"),
        (["--num", "0"], "at least 1"),
        (["--vae", "/nowhere/vae"], "/nowhere/vae"),
        (["--model", "/nowhere"], "no model directory"),
    ],
)
def test_bad_input_is_code_2_and_writes_nothing(tool, model_dir, tmp_path, arguments, words):
    result = tool("sample", "--model", model_dir, "--out", tmp_path / "out", *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()

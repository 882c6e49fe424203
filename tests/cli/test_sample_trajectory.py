import numpy as np
from PIL import Image


def test_the_strip_is_written_beside_the_grid_and_ends_with_the_images(tool, model_dir, tmp_path):
    out = tmp_path / "out"
    common = ["--model", model_dir, "--classes", 3, "--per-class", 2, "--steps", 6, "--out", out]
    result = tool("sample", *common, "--trajectory", 3)
    assert result.code == 0, result.err
    strip = np.asarray(Image.open(out / "trajectory.png"))
    assert strip.shape[1] == 3 * 98 + 2
    for row, path in enumerate(sorted((out / "images" / "0003").iterdir())):
        top = strip.shape[0] - 98 * (2 - row)
        last = strip[top : top + 96 : 3, 2 * 98 + 2 : 3 * 98 : 3]
        assert np.abs(last.astype(int) - np.asarray(Image.open(path))).max() <= 1


def test_an_earlier_strip_does_not_outlive_its_images(tool, model_dir, tmp_path):
    common = ["--model", model_dir, "--num", 2, "--steps", 2, "--out", tmp_path]
    assert tool("sample", *common, "--trajectory").code == 0
    assert Image.open(tmp_path / "trajectory.png").width == 2 * 98 + 2
    assert tool("sample", *common).code == 0
    assert (tmp_path / "trajectory.png").exists()
    assert tool("sample", *common, "--replace").code == 0
    assert not (tmp_path / "trajectory.png").exists()

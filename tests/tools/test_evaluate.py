import json
import shutil

import numpy as np
import pytest

QUICK = ["--steps", 2, "--num", 40]
DIGITS_SCORE = ["--extractor", "digits", "--metrics"]


@pytest.fixture(scope="session")
def digit_images(digit_shards):
    return digit_shards.parent / "images"


@pytest.mark.parametrize("reference", ["images", "shards"])
def test_a_model_is_scored_with_its_protocol_beside_the_scores(tool, model_dir, digit_shards, tmp_path, reference):
    out = tmp_path / "scores.json"
    path = digit_shards.parent / reference
    result = tool("evaluate", "--model", model_dir, "--reference", path, "--out", out, *QUICK)
    assert result.code == 0, result.err
    record = json.loads(out.read_text())
    assert record["scores"].keys() >= {"fid", "kid", "inception_score", "class_accuracy"}
    assert (record["num_samples"], record["num_reference"]) == (40, 1797)
    assert record["sampling"]["sampler"] == "ddim"
    assert record["sampling"]["steps"] == 2
    assert record["extractor"].startswith("digits")
    assert "40 samples against 1797" in result.out


def test_real_digits_score_far_better_than_an_untrained_models(tool, model_dir, digit_images, tmp_path):
    scores = {}
    for name, what in {"real": ["--samples", digit_images], "drawn": ["--model", model_dir, *QUICK]}.items():
        out = tmp_path / f"{name}.json"
        arguments = [*what, "--reference", digit_images, "--extractor", "digits", "--metrics", "fid", "--out", out]
        assert tool("evaluate", *arguments).code == 0
        scores[name] = json.loads(out.read_text())["scores"]["fid"]
    assert scores["real"] < 0.1
    assert scores["drawn"] > 20


def test_what_sample_wrote_is_scored_without_its_grid(tool, model_dir, digit_images, tmp_path):
    assert tool("sample", "--model", model_dir, "--num", 20, "--steps", 2, "--out", tmp_path / "out").code == 0
    arguments = ["--samples", tmp_path / "out", "--reference", digit_images, "--extractor", "digits"]
    assert tool("evaluate", *arguments).code == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["num_samples"] == 20
    assert "class_accuracy" in record["scores"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reference", "/nowhere"], "/nowhere"),
        (["--extractor", "inceptoin"], "Did you mean 'inception'"),
        (["--extractor", "inception", "--inception-weights", "/nowhere.pth"], "--inception-weights"),
        (["--metrics", "fdi"], "Did you mean 'fid'"),
        (["--sampler", "dimm"], "Did you mean 'ddim'"),
        (["--num", "1"], "at least 2"),
        (["--num", "0"], "at least 1"),
        (["--num", "-5"], "at least 1"),
        (["--device", "foo"], "--device 'foo' cannot be used"),
        (["--precision", "fp64"], "'precision'"),
        (["--out", "/nowhere/scores.json"], "no folder /nowhere"),
    ],
)
def test_bad_input_is_code_2_and_writes_nothing(tool, model_dir, digit_images, tmp_path, arguments, words):
    out = tmp_path / "scores.json"
    result = tool("evaluate", "--model", model_dir, "--reference", digit_images, "--out", out, "--steps", 2, *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err
    assert not out.exists()


def test_a_part_of_the_samples_is_of_all_classes(tool, digit_images, tmp_path):
    """Ten digits of ten classes are diverse, ten zeros are not."""
    out = tmp_path / "scores.json"
    arguments = ["--samples", digit_images, "--num", 10, "--reference", digit_images, "--out", out]
    result = tool("evaluate", *arguments, *DIGITS_SCORE, "inception_score")
    assert result.code == 0, result.err
    record = json.loads(out.read_text())
    assert record["num_samples"] == 10
    assert record["scores"]["inception_score"] > 5


def test_more_samples_than_there_are_is_an_error(tool, digit_images, tmp_path):
    arguments = ["--samples", digit_images, "--num", 5000, "--reference", digit_images, "--out", tmp_path / "out.json"]
    result = tool("evaluate", *arguments, *DIGITS_SCORE, "fid")
    assert (result.code, "there are 1797" in result.err) == (2, True)


def test_the_record_of_an_npz_stands_beside_it(tool, digit_images, tmp_path):
    np.savez(tmp_path / "x.npz", np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    arguments = ["--samples", tmp_path / "x.npz", "--reference", tmp_path / "x.npz", *DIGITS_SCORE, "fid"]
    result = tool("evaluate", *arguments)
    assert result.code == 0, result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.evaluation.json", "x.npz"]


def test_the_record_of_a_model_outlives_the_next_export(tool, model_dir, digit_images, tmp_path):
    model = tmp_path / "run" / "model"
    shutil.copytree(model_dir, model)
    arguments = ["--model", model, "--reference", digit_images, "--metrics", "fid", *QUICK]
    result = tool("evaluate", *arguments)
    assert result.code == 0, result.err
    assert sorted(path.name for path in model.parent.iterdir()) == ["model", "model.evaluation.json"]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tool, digit_images, tmp_path):
    result = tool("evaluate", "--samples", "/missing", "--reference", digit_images, "--out", tmp_path)
    assert result.code == 2
    assert "it is a folder" in result.err


def test_samples_whose_first_image_is_unusable_are_an_error(tool, digit_images, tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    result = tool("evaluate", "--samples", tmp_path, "--reference", digit_images, *DIGITS_SCORE, "fid")
    assert result.code == 2
    assert "'0.png' is unusable" in result.err
    assert "Traceback" not in result.err

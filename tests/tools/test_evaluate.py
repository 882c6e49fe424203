import json

import pytest

QUICK = ["--steps", 2, "--num", 40]


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
    ],
)
def test_bad_input_is_code_2_and_writes_nothing(tool, model_dir, digit_images, tmp_path, arguments, words):
    out = tmp_path / "scores.json"
    result = tool("evaluate", "--model", model_dir, "--reference", digit_images, "--out", out, "--steps", 2, *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err
    assert not out.exists()

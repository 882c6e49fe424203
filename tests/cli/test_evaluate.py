import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from latentdebias.models.model_directory import load_model

QUICK = ["--steps", 2, "--num", 40]
DIGITS_SCORE = ["--extractor", "digits", "--metrics"]


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
    weights = load_model(model_dir).config.autoencoder.weights_sha256
    assert record["sampling"]["vae"] == f"digits sha256:{weights}"
    assert record["resize"] == "image files by adm_centre_crop, then none"
    assert record["intervals"].keys() >= {"fid", "kid", "precision", "recall", "density", "coverage", "colour_shift"}
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


@pytest.fixture(scope="module")
def one_thread():
    """As each rank has under torchrun: the order of sums in a convolution depends on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.launcher
def test_two_ranks_score_exactly_as_one_process(tool, launch, model_dir, digit_images, tmp_path, one_thread):
    """37 samples in batches of 8: the ranks draw 3 and 2 batches, the last of them short."""
    shared = ["--model", model_dir, "--reference", digit_images, "--steps", 2, "--num", 37, "--batch-size", 8]
    shared += ["--resamples", 20]
    # Without `--` torchrun takes --num for an abbreviation of an option of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "--"]
    # A cache of its own each, so that both extract the reference.
    outs = {name: ["--out", tmp_path / f"{name}.json", "--cache", tmp_path / name] for name in ("one", "two")}
    result = tool("evaluate", *shared, *outs["one"])
    assert result.code == 0, result.err
    result = launch(*torchrun, "tools/evaluate.py", *shared, *outs["two"])
    assert result.code == 0, result.err
    assert result.out.count("written to") == 1
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in outs)
    assert len(one["intervals"]) > 5
    assert one == two


def test_a_reference_is_extracted_once(tool, digit_images, tmp_path):
    arguments = ["--samples", digit_images, "--num", 30, "--reference", digit_images, "--cache", tmp_path / "cache"]
    results = [tool("evaluate", *arguments, *DIGITS_SCORE, "fid,kid", "--out", tmp_path / name) for name in "ab"]
    assert ["reference: " in result.err for result in results] == [True, False]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_two_evaluations_are_compared(tool, model_dir, digit_images, tmp_path):
    for name, steps in {"a": 2, "b": 3}.items():
        arguments = ["--model", model_dir, "--reference", digit_images, "--num", 40, "--steps", steps]
        assert tool("evaluate", *arguments, *DIGITS_SCORE, "fid", "--out", tmp_path / name).code == 0
    result = tool("evaluate", "compare", tmp_path / "a", tmp_path / "b")
    assert result.code == 0, result.err
    assert result.out.index("sampling.steps: A 2, B 3") < result.out.index("fid: A ")


def test_the_colour_shift_is_told_by_number_of_steps(tool, model_dir, digit_images, tmp_path):
    arguments = ["--model", model_dir, "--reference", digit_images, "--num", 24, "--out", tmp_path / "shift.json"]
    result = tool("evaluate", "colour-shift", *arguments, "--steps", "2,5")
    assert result.code == 0, result.err
    records = json.loads((tmp_path / "shift.json").read_text())
    assert [record["sampling"]["steps"] for record in records] == [2, 5]
    assert all({"colour_shift", "spectrum_shift"} <= record["intervals"].keys() for record in records)
    assert records[0]["scores"] != records[1]["scores"]
    assert [line.split()[0] for line in result.out.splitlines()[:3]] == ["steps", "2", "5"]


def moments_only(path):
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))


def other_dimension(path):
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))


def pickled(path):
    np.savez(path, arr_0=np.array([None], dtype=object))


def no_known_key(path):
    np.savez(path, images=np.zeros((2, 8, 8, 3), dtype=np.uint8))


def test_published_moments_are_a_reference(tool, digit_images, tmp_path):
    moments_only(tmp_path / "adm.npz")
    arguments = ["--samples", digit_images, "--num", 40, "--reference", tmp_path / "adm.npz", "--out", tmp_path / "out"]
    result = tool("evaluate", *arguments, *DIGITS_SCORE, "fid,kid,precision_recall")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out").read_text())["scores"].keys() == {"fid"}


@pytest.mark.parametrize(
    ("write", "words"),
    [(other_dimension, "2048 features"), (pickled, "allow_pickle=False"), (no_known_key, "neither `arr_0` nor `mu`")],
)
def test_a_bad_npz_is_code_2_and_one_paragraph(tool, digit_images, tmp_path, write, words):
    write(tmp_path / "bad.npz")
    arguments = ["--samples", digit_images, "--num", 40, "--reference", tmp_path / "bad.npz", "--out", tmp_path / "out"]
    result = tool("evaluate", *arguments, *DIGITS_SCORE, "fid")
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["comapre", "a", "b"], "Did you mean 'compare'"),
        (["compare", "/nowhere/a.json", "/nowhere/b.json"], "/nowhere/a.json does not exist"),
        (["colour-shift", "--model", "/nowhere", "--reference", "x", "--steps", "5,x"], "'5,x' is no list"),
        (["colour-shift", "--model", "/tmp/nowhere", "--reference", "x", "--steps", "5"], "is no model directory"),
    ],
)
def test_a_bad_command_is_code_2(tool, arguments, words):
    result = tool("evaluate", *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("made", ["png", "npz", "webdataset"])
def test_a_drawn_set_is_scored_with_how_it_was_drawn(tool, model_dir, digit_shards, tmp_path, made):
    samples = tmp_path / "samples"
    drawn = [
        "--num",
        12,
        "--steps",
        3,
        "--seed",
        5,
        "--guidance",
        2,
        "--format",
        made,
        "--trajectory",
        "--out",
        samples,
    ]
    assert tool("sample", "--model", model_dir, *drawn).code == 0
    scoring = ["--reference", digit_shards, "--extractor", "pixels", "--metrics", "colour_shift", "--resamples", 0]
    result = tool("evaluate", "--samples", samples, *scoring)
    assert result.code == 0, result.err
    record = json.loads((samples / "evaluation.json").read_text())
    assert record["num_samples"] == 12
    protocol = record["sampling"]
    assert (protocol["steps"], protocol["seed"], protocol["guidance"]["scale"], protocol["nfe"]) == (3, 5, 2.0, 3)
    assert protocol["weights_sha256"] == hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest()
    again = ["--num", 12, "--steps", 3, "--seed", 5, "--guidance", 2, *scoring, "--out", tmp_path / "drawn.json"]
    assert tool("evaluate", "--model", model_dir, *again).code == 0
    assert json.loads((tmp_path / "drawn.json").read_text())["sampling"] == protocol

"""Grids and scores while training: shared by the ranks, and those that the commands draw from the exported model."""

import io
import json

import pytest
import torch
from two_ranks import on_two_ranks, outlast_the_timeout, train

from latentdebias.cli import evaluate
from latentdebias.config import load_config
from latentdebias.drawing.image_sampler import labels_by_class, save_grid
from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.models.model_directory import load_model
from latentdebias.training.hooks import evaluation as evaluation_hook

METRICS = ("fid", "class_accuracy")


@pytest.fixture
def scored(small_run, digit_shards):
    """Overrides of a run that draws, scores and exports at its last step, in batches that two ranks share unevenly."""
    return [
        *small_run,
        "training.steps=2",
        "training.batch_size=4",
        "training.sample_every=2",
        "sampling.per_class=1",
        "sampling.steps=2",
        "sampling.batch_size=4",
        "evaluation.every=2",
        "evaluation.num=20",
        "evaluation.steps=2",
        "evaluation.batch_size=4",
        "evaluation.extractor=digits",
        f"evaluation.metrics=[{','.join(METRICS)}]",
        f"evaluation.reference={digit_shards}",
    ]


def scores_of_evaluate(run_dir, digit_shards):
    """The record of `latentdebias evaluate` on the exported model."""
    out = run_dir / "evaluate.json"
    drawing = ["--num", "20", "--steps", "2", "--batch-size", "4", "--guidance", "1"]
    scoring = ["--extractor", "digits", "--metrics", ",".join(METRICS), "--reference", str(digit_shards)]
    evaluate.main(["--model", str(run_dir / "model"), *drawing, *scoring, "--out", str(out)])
    return json.loads(out.read_text())


def grid_of(model, scored):
    """The PNG of one image of each class, drawn by one process as the run of two drew it."""
    options = load_config("digits_debias.yaml", scored).sampling
    images = model.image_sampler().draw(labels_by_class(list(range(10)), 1), options)
    png = io.BytesIO()
    save_grid(torch.cat(list(images)), 1, png, model.config.class_names)
    return png.getvalue()


@pytest.mark.usefixtures("process_group")
def test_scores_while_training_are_those_of_evaluate(make_run, scored, digit_shards):
    run = make_run(*scored)
    run.train()
    while_training = json.loads((run.run_dir / "evaluation" / "step-00000002.json").read_text())
    afterwards = scores_of_evaluate(run.run_dir, digit_shards)
    same = ("scores", "samples_sha256", "reference_sha256", "extractor", "num_samples", "num_reference")
    assert {name: while_training[name] for name in same} == {name: afterwards[name] for name in same}
    where = {"model", "weights_sha256"}
    settings = [
        {key: value for key, value in record["sampling"].items() if key not in where}
        for record in (while_training, afterwards)
    ]
    assert settings[0] == settings[1]


def test_the_reference_is_read_once_and_not_after_a_restart(make_run, scored, monkeypatch):
    extracted = []

    def counted(images, extractor, description):
        extracted.append(description)
        return extract_over_ranks(images, extractor, description)

    monkeypatch.setattr("latentdebias.evaluation.reference.extract_over_ranks", counted)
    monkeypatch.setattr(evaluation_hook, "extract_over_ranks", counted)
    reference = ["evaluation.reference=" + scored[-1].split("=")[1], "evaluation.every=1"]
    make_run(*scored, *reference).train()
    make_run(*scored, *reference, "training.steps=3").train()
    assert extracted.count("samples") == 3
    assert extracted.count("reference") <= 1


def test_two_ranks_share_a_grid_and_scores_that_are_those_of_one(scored, digit_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTDEBIAS_CACHE", str(tmp_path / "cache"))
    on_two_ranks(train, scored)
    run_dir = tmp_path / "run"
    while_training = json.loads((run_dir / "evaluation" / "step-00000002.json").read_text())
    afterwards = scores_of_evaluate(run_dir, digit_shards)
    assert while_training["samples_sha256"] == afterwards["samples_sha256"]
    assert while_training["scores"] == afterwards["scores"]
    assert (run_dir / "samples" / "step-00000002.png").read_bytes() == grid_of(load_model(run_dir / "model"), scored)


def test_a_hook_may_outlast_the_timeout_of_the_steps(tmp_path):
    on_two_ranks(outlast_the_timeout, tmp_path / "sum.json")
    assert json.loads((tmp_path / "sum.json").read_text()) == 2

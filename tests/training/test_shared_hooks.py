"""Grids and scores while training: shared by the ranks, and those that the commands draw from the exported model."""

import io
import json

import pytest
import torch
from scored_run import afterwards, scoring, while_training
from two_ranks import on_two_ranks, outlast_the_timeout, train

from latentdebias.config import load_config
from latentdebias.drawing.image_sampler import labels_by_class, save_grid
from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.models.model_directory import load_model
from latentdebias.training.hooks import evaluation as evaluation_hook


@pytest.fixture
def scored(small_run, digit_shards):
    return [*small_run, *scoring(digit_shards)]


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
    own, later = while_training(run.run_dir), afterwards(run.run_dir, digit_shards)
    same = ("scores", "samples_sha256", "reference_sha256", "extractor", "num_samples", "num_reference")
    assert {name: own[name] for name in same} == {name: later[name] for name in same}
    where = {"model", "weights_sha256"}
    settings = [
        {key: value for key, value in record["sampling"].items() if key not in where} for record in (own, later)
    ]
    assert settings[0] == settings[1]


def test_the_reference_is_read_once_and_not_after_a_restart(make_run, scored, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTDEBIAS_CACHE", str(tmp_path / "cache"))
    extracted = []

    def counted(images, extractor, description):
        extracted.append(description)
        return extract_over_ranks(images, extractor, description)

    monkeypatch.setattr("latentdebias.evaluation.reference.extract_over_ranks", counted)
    monkeypatch.setattr(evaluation_hook, "extract_over_ranks", counted)
    make_run(*scored, "evaluation.every=1").train()
    make_run(*scored, "evaluation.every=1", "training.steps=3").train()
    assert extracted.count("samples") == 3
    assert extracted.count("reference") == 1


def test_two_ranks_share_a_grid_and_scores_that_are_those_of_one(scored, digit_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTDEBIAS_CACHE", str(tmp_path / "cache"))
    on_two_ranks(train, scored)
    run_dir = tmp_path / "run"
    own, later = while_training(run_dir), afterwards(run_dir, digit_shards)
    assert own["samples_sha256"] == later["samples_sha256"]
    assert own["scores"] == later["scores"]
    assert (run_dir / "samples" / "step-00000002.png").read_bytes() == grid_of(load_model(run_dir / "model"), scored)


@pytest.mark.launcher
def test_a_hook_may_outlast_the_timeout_of_the_steps(tmp_path):
    on_two_ranks(outlast_the_timeout, tmp_path / "sum.json")
    assert json.loads((tmp_path / "sum.json").read_text()) == 2

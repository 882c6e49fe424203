"""Scores while training."""

import json

import pytest

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.prepare import prepare


@pytest.fixture
def scored(digit_shards):
    return [
        "evaluation.every=2",
        "evaluation.num=20",
        "evaluation.steps=2",
        "evaluation.extractor=digits",
        "evaluation.metrics=[fid,class_accuracy]",
        f"evaluation.reference={digit_shards}",
    ]


def records_of(run):
    return [json.loads(line) for line in (run.run_dir / "log.jsonl").read_text().splitlines()]


def test_scores_are_logged_and_their_protocol_kept(make_run, scored):
    run = make_run(*scored)
    run.train()
    logged = {record["step"]: record for record in records_of(run) if "fid" in record}
    assert logged.keys() == {2, 4}
    for step, record in logged.items():
        protocol = json.loads((run.run_dir / "evaluation" / f"step-{step:08d}.json").read_text())
        assert protocol["scores"] == {"fid": record["fid"], "class_accuracy": record["class_accuracy"]}
        assert protocol["num_samples"] == 20
        assert protocol["num_reference"] == 1797
        assert protocol["sampling"]["ema"]
        assert protocol["sampling"]["guidance"]["scale"] == 1
    assert logged[2]["fid"] != logged[4]["fid"]


def test_scoring_leaves_the_training_alone(make_run, scored, tmp_path):
    plain, watched = (make_run(f"run_dir={tmp_path / name}", *more) for name, more in (("a", []), ("b", scored)))
    plain.train()
    watched.train()
    losses = [[record["loss"] for record in records_of(run) if "loss" in record] for run in (plain, watched)]
    assert losses[0] == losses[1]


def test_the_average_is_what_is_scored(make_run, scored, tmp_path):
    """With a decay of nearly one the average stays at the initial weights, so the score does not move."""
    run = make_run(*scored, "ema.decays=[0.999999999999]")
    run.train()
    fids = [record["fid"] for record in records_of(run) if "fid" in record]
    assert fids[0] == pytest.approx(fids[1], rel=1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.reference=null", "evaluation.reference=PATH"),
        ("evaluation.metrics=[fit]", "fid"),
        ("evaluation.extractor=digit", "digits"),
        ("evaluation.extractor={name: inception, weights: nowhere.pth}", "No Inception weights at nowhere.pth"),
        ("evaluation.sampler=dimm", "ddim"),
        ("evaluation.steps=5000", "1000"),
        ("evaluation.reference=/nowhere", "/nowhere"),
        ("evaluation.evry=2", "every"),
    ],
)
def test_an_evaluation_that_would_fail_later_is_refused_at_once(small_run, scored, override, words):
    with pytest.raises(UserError) as error:
        prepare(load_config("digits_debias.yaml", [*small_run, *scored, override]))
    assert words in str(error.value)


def test_nothing_is_scored_by_default(make_run):
    run = make_run()
    run.train()
    assert run.config.evaluation.every == 0
    assert not (run.run_dir / "evaluation").exists()

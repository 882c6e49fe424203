"""Scores while training are those of `latentdebias evaluate` on the exported model, on a GPU too."""

import pytest
from scored_run import afterwards, scoring, while_training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_while_training_are_those_of_evaluate(make_run, digit_shards, precision):
    run = make_run(*scoring(digit_shards), f"training.precision={precision}")
    run.train()
    own, later = while_training(run.run_dir), afterwards(run.run_dir, digit_shards)
    assert own["reference_sha256"] == later["reference_sha256"]
    # A GPU may draw an image with other last bits the second time.
    assert own["scores"] == pytest.approx(later["scores"], rel=1e-3)

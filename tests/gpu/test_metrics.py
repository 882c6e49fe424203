"""The metrics that compute where the features were extracted: the scores of the CPU, and of its half samples."""

from dataclasses import replace

import pytest
import torch
from random_sets import feature_set, gaussian

from latentdebias.evaluation.evaluator import evaluate
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.intervals import intervals
from latentdebias.precision import computing_in


@pytest.mark.parametrize("name", ["kid", "precision_recall", "density_coverage"])
def test_scores_and_intervals_are_those_of_the_cpu(device, name):
    # More than one chunk of rows; halves of the samples overlap the reference.
    features = gaussian(2600, 16, seed=1)
    samples, reference = feature_set(features[:1100]), feature_set(1.2 * features[1100:])
    metrics = [METRICS.build(name)]
    expected = evaluate(samples, reference, metrics)
    expected_intervals = intervals(samples, reference, metrics, expected, resamples=20)
    # In TF32 the distances of neighbours would be off.
    with computing_in("tf32"):
        scores = evaluate(replace(samples, device=device), reference, metrics)
        found = intervals(replace(samples, device=device), reference, metrics, scores, resamples=20)
    assert expected_intervals
    # A point within rounding of a ball's surface may be in or out.
    assert scores == {key: pytest.approx(value, rel=1e-3, abs=2e-3) for key, value in expected.items()}
    for key, interval in expected_intervals.items():
        assert found[key] == pytest.approx(interval, rel=1e-2, abs=5e-3)


@pytest.mark.parametrize("name", ["kid", "precision_recall", "density_coverage"])
def test_a_run_that_computes_deterministically_has_scores(device, name, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    features = gaussian(120, 4, seed=1)
    samples, reference = replace(feature_set(features[:60]), device=device), feature_set(features[60:])
    torch.use_deterministic_algorithms(True)
    try:
        scores = evaluate(samples, reference, [METRICS.build(name)])
        assert intervals(samples, reference, [METRICS.build(name)], scores, resamples=4)
    finally:
        torch.use_deterministic_algorithms(False)


def test_features_are_kept_on_the_cpu(device):
    samples = replace(feature_set(gaussian(60, 4, seed=1)), device=device)
    METRICS.build("precision_recall").measure(samples, samples)
    assert samples.features.device == torch.device("cpu")

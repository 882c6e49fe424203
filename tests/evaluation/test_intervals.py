import numpy as np
import pytest
import torch
from random_sets import feature_set, gaussian

from latentdebias.evaluation.evaluator import evaluate
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.metrics.half_samples import HalfSamples
from latentdebias.evaluation.metrics.metric import MeasuresHalfSamples
from latentdebias.evaluation.protocol.intervals import intervals

WHOLE = {"name": "kid", "subsets": 1, "subset_size": 10_000}


def halves_of(count, number=12):
    return HalfSamples.of(count, number, seed=0)


def test_a_half_holds_half_the_images_and_none_twice():
    halves = halves_of(640)
    for chosen in halves.chosen:
        rows = halves.rows(chosen)
        assert len(rows) == len(rows.unique()) == 320
    assert len({tuple(halves.rows(chosen).tolist()) for chosen in halves.chosen}) == 12


@pytest.mark.parametrize("count", [2, 3, 41, 129])
def test_the_blocks_are_a_partition(count):
    halves = halves_of(count)
    assert torch.cat(halves.blocks).sort().values.tolist() == list(range(count))
    for number, block in enumerate(halves.blocks):
        assert (halves.block_of_row()[block] == number).all()


def test_halves_are_a_function_of_the_seed():
    first, again, other = (HalfSamples.of(100, 5, seed).chosen for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_halves_vary_as_the_mean_of_the_whole_does():
    """The sampling theory that the intervals rest on."""
    x = torch.randn(64 * 20, generator=torch.Generator().manual_seed(0)).double()
    halves = halves_of(len(x), number=4000)
    spread = torch.stack([x[halves.rows(chosen)].mean() for chosen in halves.chosen]).std()
    blocks = torch.stack([x[block].mean() for block in halves.blocks])
    assert float(spread) == pytest.approx(float(blocks.std() / 64**0.5), rel=0.05)


@pytest.mark.parametrize("name", ["fid", "sfid"])
def test_the_fast_distance_of_a_half_is_the_metrics(name):
    x, y = gaussian(300, 8, seed=1), gaussian(200, 8, seed=2)
    samples, reference = feature_set(x, spatial=x), feature_set(y, spatial=y)
    metric, halves = METRICS.build(name), halves_of(300)
    expected = [metric.measure(samples.part(halves.rows(chosen)), reference)[name] for chosen in halves.chosen]
    assert metric.measure_half_samples(samples, reference, halves)[name] == pytest.approx(expected, rel=1e-8)


def test_large_features_are_measured_on_fewer_halves():
    x, y = (feature_set(gaussian(64, 513, seed=seed)) for seed in (1, 2))
    assert len(METRICS.build("fid").measure_half_samples(x, y, halves_of(64, 40))["fid"]) == 20


def test_the_fast_kid_of_a_half_differs_from_the_metrics_by_the_references_own_part():
    samples, reference = feature_set(gaussian(128, 8, seed=1)), feature_set(gaussian(64, 8, seed=2))
    metric, halves = METRICS.build(WHOLE), halves_of(128)
    expected = [metric.measure(samples.part(halves.rows(chosen)), reference)["kid"] for chosen in halves.chosen]
    found = metric.measure_half_samples(samples, reference, halves)["kid"]
    constant = np.subtract(expected, found)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(constant, constant[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["precision", "density", "coverage"])
def test_the_fast_neighbour_scores_of_a_half_are_the_metrics(name):
    x = gaussian(300, 6, seed=1)
    samples, reference = feature_set(x[:128]), feature_set(1.3 * x[128:])
    metric = METRICS.build("precision_recall" if name == "precision" else "density_coverage")
    halves = halves_of(128)
    expected = [metric.measure(samples.part(halves.rows(chosen)), reference)[name] for chosen in halves.chosen]
    assert metric.measure_half_samples(samples, reference, halves)[name] == pytest.approx(expected)


def test_the_recall_of_a_half_is_lower_than_that_of_all():
    x = gaussian(300, 6, seed=1)
    samples, reference = feature_set(x[:128]), feature_set(1.3 * x[128:])
    metric = METRICS.build("precision_recall")
    whole = metric.measure(samples, reference)["recall"]
    found = metric.measure_half_samples(samples, reference, halves_of(128))["recall"]
    assert 0.3 * whole < max(found) <= whole


def test_the_interval_of_fid_is_as_wide_as_other_samples_make_it():
    mixing = gaussian(6, 6, seed=0)
    reference = feature_set(gaussian(3000, 6, seed=5))

    def drawn(seed):
        g = torch.Generator().manual_seed(seed)
        return feature_set(torch.randn(600, 6, generator=g) @ mixing)

    metrics = [METRICS.build("fid")]
    scores = [evaluate(drawn(seed), reference, metrics)["fid"] for seed in range(60)]
    widths = []
    for seed in range(4):
        low, high = intervals(drawn(seed), reference, metrics, {"fid": scores[seed]})["fid"]
        assert (low + high) / 2 == pytest.approx(scores[seed])
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(scores), rel=0.35)


class Plain:
    """A metric as another package would write it: no fast way, no direction but one."""

    def __init__(self, better):
        self.better = better

    def measure(self, samples, reference):
        return {"mean": float(samples.features.mean()), "count": float(samples.count)}


def test_a_metric_without_a_fast_way_is_measured_on_every_half():
    x = feature_set(torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)))
    metric = Plain({"mean": "lower"})
    assert not isinstance(metric, MeasuresHalfSamples)
    found = intervals(x, x, [metric], metric.measure(x, x))
    assert list(found) == ["mean"]
    low, high = found["mean"]
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.25)


@pytest.mark.parametrize(("count", "resamples"), [(19, 200), (40, 0), (40, 1)])
def test_too_few_images_or_halves_have_no_intervals(count, resamples):
    x = feature_set(gaussian(count, 2, seed=0))
    assert intervals(x, x, [METRICS.build("fid")], {"fid": 0.0}, resamples) == {}

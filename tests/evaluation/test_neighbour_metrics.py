import numpy as np
import pytest
import torch
from random_sets import feature_set, gaussian
from torch_fidelity.metric_prc import prc_features_to_metric

from latentdebias.evaluation.metrics import METRICS

NAMES = ["precision_recall", "density_coverage"]


def distances(x, y):
    """In float64 and without the matrix product of torch.cdist."""
    return np.linalg.norm(x.double().numpy()[:, None] - y.double().numpy()[None], axis=-1)


def ball_radii(x, k):
    return np.sort(distances(x, x), axis=1)[:, k]


@pytest.fixture
def two_sets():
    """Of overlapping support, sharing a mixing so that some points are in the other's balls and some are not."""
    x = gaussian(220, 6, seed=1)
    return feature_set(x[:100]), feature_set(1.3 * x[100:])


def test_precision_and_recall_are_those_of_their_definition(two_sets):
    samples, reference = two_sets
    d = distances(samples.features, reference.features)
    precision = (d <= ball_radii(reference.features, 3)[None]).any(1).mean()
    recall = (d <= ball_radii(samples.features, 3)[:, None]).any(0).mean()
    scores = METRICS.build("precision_recall").measure(samples, reference)
    assert 0.05 < precision < 0.99
    assert scores == {"precision": pytest.approx(precision), "recall": pytest.approx(recall)}


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_torch_fidelity(two_sets, k):
    samples, reference = two_sets
    theirs = prc_features_to_metric(
        samples.features, reference.features, prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=True, verbose=False
    )
    scores = METRICS.build({"name": "precision_recall", "k": k}).measure(samples, reference)
    assert scores == {name: theirs[name] for name in ("precision", "recall")}


def test_density_and_coverage_are_those_of_their_definition(two_sets):
    samples, reference = two_sets
    inside = distances(samples.features, reference.features) <= ball_radii(reference.features, 5)[None]
    scores = METRICS.build("density_coverage").measure(samples, reference)
    assert 0.05 < inside.any(0).mean() < 0.99
    assert scores == {
        "density": pytest.approx(inside.sum() / (5 * len(inside))),
        "coverage": pytest.approx(inside.any(0).mean()),
    }


def test_of_a_set_with_itself_all_is_covered():
    a = feature_set(gaussian(2000, 8, seed=1))  # longer than one block of rows
    assert METRICS.build("precision_recall").measure(a, a) == {"precision": 1, "recall": 1}
    scores = METRICS.build("density_coverage").measure(a, a)
    assert scores["coverage"] == 1
    # Every ball holds its centre and its k neighbours, the last of them on its surface: inside to rounding.
    assert 5 / 5 < scores["density"] <= 6 / 5


@pytest.mark.parametrize("name", NAMES)
def test_sets_far_apart_share_nothing(name):
    x = gaussian(50, 8, seed=1)
    scores = METRICS.build(name).measure(feature_set(x), feature_set(x + 1000))
    assert set(scores.values()) == {0}


@pytest.mark.parametrize("name", [*NAMES, "fid", "sfid", "kid", "colour_shift"])
def test_the_order_of_the_images_does_not_matter(two_sets, name):
    spec = {"name": "kid", "subsets": 1, "subset_size": 100} if name == "kid" else name
    x, y = (
        feature_set(each.features, spatial=each.features[:, :4], colour=gaussian(each.count, 11, seed=3).double() ** 2)
        for each in two_sets
    )
    if name == "kid":
        y = y.part(slice(0, 100))
    order = torch.randperm(x.count, generator=torch.Generator().manual_seed(0))
    scores = METRICS.build(spec).measure(x, y)
    shuffled = METRICS.build(spec).measure(x.part(order), y)
    assert scores
    assert shuffled == pytest.approx(scores, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_images_have_no_score(name):
    a = feature_set(gaussian(3, 8, seed=1))
    assert METRICS.build(name).measure(a, a) == {}


def test_sfid_is_the_distance_of_the_spatial_features():
    x, y = gaussian(300, 8, seed=1), gaussian(400, 8, seed=2)
    spatial = METRICS.build("sfid").measure(
        feature_set(gaussian(300, 5, seed=3), spatial=x), feature_set(gaussian(400, 5, seed=4), spatial=y)
    )
    assert spatial["sfid"] == METRICS.build("fid").measure(feature_set(x), feature_set(y))["fid"]
    assert METRICS.build("sfid").measure(feature_set(x), feature_set(y, spatial=y)) == {}

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from random_sets import feature_set, gaussian

from latentdebias.errors import UserError
from latentdebias.evaluation.metrics import METRICS


def closed_form_frechet(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)


def cubic_kernel(x, y):
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def mmd2_by_definition(x, y):
    """Unbiased squared MMD as the double sums of Gretton et al. 2012, Equation 3, for equal sizes."""
    n = len(x)
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    within = cubic_kernel(x, x)[off_diagonal].mean() + cubic_kernel(y, y)[off_diagonal].mean()
    return float(within - 2 * cubic_kernel(x, y).mean())


@pytest.fixture
def two_sets():
    return feature_set(gaussian(300, 8, seed=1)), feature_set(gaussian(400, 8, seed=2))


def test_fid_of_a_set_with_itself_is_zero():
    a = feature_set(gaussian(500, 16, seed=1))
    assert METRICS.build("fid").measure(a, a)["fid"] == pytest.approx(0, abs=1e-6)


def test_fid_equals_the_closed_form(two_sets):
    x, y = two_sets
    assert METRICS.build("fid").measure(x, y)["fid"] == pytest.approx(
        closed_form_frechet(x.features, y.features), rel=1e-6
    )


def test_fid_of_a_shift_is_its_squared_length():
    x = gaussian(5000, 4, seed=1)  # longer than one chunk of rows
    score = METRICS.build("fid").measure(feature_set(x), feature_set(x + torch.tensor([3.0, 0, 4.0, 0])))
    assert score["fid"] == pytest.approx(25, abs=1e-4)


def test_fid_survives_features_with_a_large_mean():
    """Sums of squares in float32 would lose the covariance."""
    x, y = gaussian(300, 8, seed=1), gaussian(300, 8, seed=2)
    near = METRICS.build("fid").measure(feature_set(x), feature_set(y))["fid"]
    far = METRICS.build("fid").measure(feature_set(x + 4096), feature_set(y + 4096))["fid"]
    assert far == pytest.approx(near, rel=1e-3)


def test_kid_of_whole_sets_equals_its_definition():
    x, y = gaussian(60, 8, seed=1), gaussian(60, 8, seed=2)
    score = METRICS.build({"name": "kid", "subsets": 1}).measure(feature_set(x), feature_set(y))
    assert score["kid"] == pytest.approx(mmd2_by_definition(x, y), rel=1e-9)


@pytest.mark.parametrize("name", ["kid", "inception_score"])
def test_random_metrics_repeat_and_leave_the_global_generator_alone(name):
    spec = {"name": "kid", "subsets": 5, "subset_size": 50} if name == "kid" else name
    metric = METRICS.build(spec)
    x = feature_set(gaussian(300, 8, seed=1), logits=gaussian(300, 10, seed=3))
    y = feature_set(gaussian(400, 8, seed=2), logits=gaussian(400, 10, seed=4))
    torch.manual_seed(7)
    first = metric.measure(x, y)
    after = torch.rand(3)
    torch.manual_seed(8)
    assert metric.measure(x, y) == first
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("name", ["kid", "inception_score"])
def test_the_seed_decides_the_subsets(name):
    options = {"subsets": 5, "subset_size": 50} if name == "kid" else {}
    x = feature_set(gaussian(300, 8, seed=1), logits=gaussian(300, 10, seed=3))
    y = feature_set(gaussian(400, 8, seed=2), logits=gaussian(400, 10, seed=4))
    scores = [METRICS.build({"name": name, "seed": seed, **options}).measure(x, y)[name] for seed in (0, 1)]
    assert scores[0] != scores[1]


def test_kid_shrinks_its_subsets_to_the_smaller_set(two_sets):
    x, y = two_sets
    asked_1000 = METRICS.build({"name": "kid", "subsets": 3}).measure(x, y)
    asked_300 = METRICS.build({"name": "kid", "subsets": 3, "subset_size": 300}).measure(x, y)
    assert asked_1000 == asked_300


def test_inception_score_of_sure_and_balanced_logits_is_the_number_of_classes():
    logits = 1000 * torch.eye(10).repeat(20, 1)
    score = METRICS.build({"name": "inception_score", "splits": 1}).measure(feature_set(logits=logits), None)
    assert score == {"inception_score": pytest.approx(10, rel=1e-6)}


def test_inception_score_of_unsure_logits_is_one():
    scores = METRICS.build("inception_score").measure(feature_set(logits=torch.zeros(1000, 10)), None)
    assert scores["inception_score"] == pytest.approx(1)
    assert scores["inception_score_std"] == pytest.approx(0, abs=1e-9)


def test_inception_score_is_finite_where_a_split_misses_a_class():
    """A class that no sample of a split shows has probability 0 in float32, and 0 * log 0 is nan."""
    logits = 300 * torch.eye(10)[torch.zeros(200, dtype=torch.long)]
    scores = METRICS.build("inception_score").measure(feature_set(logits=logits), None)
    assert scores["inception_score"] == pytest.approx(1)
    assert math.isfinite(scores["inception_score_std"])


@pytest.mark.parametrize(("count", "splits"), [(50, 1), (300, 3), (5000, 10)])
def test_inception_score_splits_hold_at_least_100_samples(count, splits):
    x = feature_set(logits=gaussian(count, 10, seed=3))
    asked = METRICS.build({"name": "inception_score", "splits": splits}).measure(x, None)
    assert METRICS.build("inception_score").measure(x, None) == asked


def test_class_accuracy_is_the_share_of_hits():
    logits = torch.eye(4)[[0, 1, 2, 3, 3, 0, 0, 0]]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    scores = METRICS.build("class_accuracy").measure(feature_set(logits=logits, labels=labels, num_classes=4), None)
    assert scores == {"class_accuracy": pytest.approx(0.5)}


def test_class_accuracy_weighs_samples_not_classes():
    logits = torch.eye(2)[[0, 0, 0, 0]]
    labels = torch.tensor([0, 0, 0, 1])
    scores = METRICS.build("class_accuracy").measure(feature_set(logits=logits, labels=labels, num_classes=2), None)
    assert scores == {"class_accuracy": pytest.approx(0.75)}


def test_class_accuracy_is_absent_without_labels():
    assert METRICS.build("class_accuracy").measure(feature_set(logits=torch.eye(4), num_classes=4), None) == {}


@pytest.mark.parametrize("num_classes", [None, 1000])
def test_class_accuracy_is_absent_where_the_extractor_has_other_classes(num_classes):
    x = feature_set(logits=torch.zeros(5, 1008), labels=torch.arange(5), num_classes=num_classes)
    assert METRICS.build("class_accuracy").measure(x, None) == {}


def test_bad_options_are_refused_by_name():
    with pytest.raises(UserError, match="'subset_size' in metric 'kid'"):
        METRICS.build({"name": "kid", "subset_size": 1})
    with pytest.raises(UserError, match="'splits' in metric 'inception_score'"):
        METRICS.build({"name": "inception_score", "splits": 0})
    with pytest.raises(UserError, match="Did you mean 'fid'"):
        METRICS.build("fidd")

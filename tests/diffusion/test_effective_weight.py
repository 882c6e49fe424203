"""Effective weights of pairs of objectives that are known to be one, and of some whose form is known."""

import math
import warnings

import pytest
import torch
from scipy.stats import norm

from latentdebias import Diffusion
from latentdebias.diffusion.effective_weight import effective_weight


def weight_of(*parts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return effective_weight(Diffusion(*parts))


ONE_OBJECTIVE = {
    "a weighting, and the density it is": (("flow", "flow", "cosmap"), ("flow", "flow", "constant", "cosmap")),
    "eps on eps, snr on x0": (("linear", "eps"), ("linear", "x0", "snr")),
    "the velocity of the circle is v": (("trig", "v", "p2"), ("trig", "x0", "p2")),
    "a noise level is one on every schedule": (
        ("edm", "edm", "edm", "log_normal"),
        ("trig", "v", "edm", "log_normal"),
    ),
    "a weight per log SNR": (
        ("trig", "v", {"name": "sigmoid", "per": "log_snr"}),
        ({"name": "laplace", "b": 3.0}, "x0", {"name": "sigmoid", "per": "log_snr"}),
    ),
    "a schedule, and the density that it has": (("laplace", "v"), ("trig", "v", "constant", "laplace")),
}


@pytest.mark.parametrize(("one", "other"), ONE_OBJECTIVE.values(), ids=ONE_OBJECTIVE)
def test_equal_objectives_have_one_effective_weight(one, other):
    assert weight_of(*one).distance(weight_of(*other)) < 0.003


def test_different_objectives_have_different_effective_weights():
    constant, debias = weight_of("linear", "eps"), weight_of("linear", "eps", "debias")
    assert constant.distance(debias) == pytest.approx(debias.distance(constant))
    assert 0.3 < constant.distance(debias) < 1
    assert debias.quantile(0.5) < constant.quantile(0.5)


def test_flow_matching_weighs_v_by_a_hyperbolic_secant():
    """Kingma & Gao 2023, table 1: uniform t and the velocity are sech(l / 2) on v, whose integral is 2 pi."""
    found = weight_of("flow", "flow")
    near = found.log_snr.abs() < 6
    expected = 1 / torch.cosh(found.log_snr / 2) / (2 * math.pi)
    torch.testing.assert_close(found.weight[near], expected[near], rtol=2e-3, atol=0)


def test_the_density_is_that_of_log_snr():
    found = weight_of("edm", "edm", "edm", {"name": "log_normal", "mean": -1.2, "std": 1.2})
    expected = torch.from_numpy(norm.pdf(found.log_snr.numpy(), 2.4, 2.4))
    near = (found.log_snr - 2.4).abs() < 6
    torch.testing.assert_close(found.density[near], expected[near], rtol=5e-3, atol=0)


def test_quantiles_and_shares_are_of_the_weight():
    found = weight_of("flow", "flow")
    assert found.quantile(0.5) == pytest.approx(0, abs=0.02)
    assert found.share_above(0) == pytest.approx(0.5, abs=0.01)
    # The distribution function of sech(l / 2) / (2 pi) is 2 / pi arctan e^(l / 2).
    assert found.quantile(0.25) == pytest.approx(2 * math.log(math.tan(0.75 * math.pi / 2)), abs=0.02)


def test_what_is_never_drawn_is_not_covered():
    assert weight_of("trig", "v", "constant", "speed").covered.all()
    narrow = weight_of("linear", "eps", "constant", {"name": "laplace", "mu": 20.0})
    assert narrow.covered.double().mean() < 0.01

"""Error functions and additional terms of the loss, against torch's own and formulas written here."""

import math

import pytest
import torch
from torch.nn import functional as F

from latentdebias import Diffusion
from latentdebias.errors import UserError

B = 6
torch.manual_seed(0)
X0, EPS, OUTPUT = (torch.randn(B, 3, 4, 4, dtype=torch.float64) for _ in range(3))
TIMES = torch.tensor([0, 10, 200, 500, 800, 999])


def loss(t=TIMES, x0=X0, eps=EPS, **parts):
    d = Diffusion(**{"schedule": "linear", "target": "eps", **parts})
    return d.loss(lambda z, time: OUTPUT[: len(x0)], x0, t=t, eps=eps)


def test_huber_is_torchs():
    expected = F.huber_loss(OUTPUT, EPS, delta=0.3, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(loss(error={"name": "huber", "c": 0.3}), expected)


@pytest.mark.parametrize(
    ("schedule", "width"),
    [
        ("constant", lambda u, ratio: 0.2),
        ("exponential", lambda u, ratio: 0.2**u),
        ("snr", lambda u, ratio: 0.2 + 0.8 / (1 + ratio) ** 2),
    ],
)
def test_pseudo_huber_and_the_schedules_of_its_width(schedule, width):
    level = Diffusion("linear").schedule.level(TIMES, torch.float64)
    found = loss(error={"name": "pseudo_huber", "c": 0.2, "schedule": schedule})
    for row in range(B):
        c = width(TIMES[row].item() / 1000, (level.sigma / level.alpha)[row].item())
        expected = (((OUTPUT - EPS)[row] ** 2 + c**2).sqrt() - c).mean().item()
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_the_forms_of_pseudo_huber_are_those_of_the_fine_tuning_codes():
    plain, huber, smooth = (
        loss(error={"name": "pseudo_huber", "c": 0.2, "form": f}) for f in ("plain", "huber", "smooth_l1")
    )
    torch.testing.assert_close(huber, 0.4 * plain)
    torch.testing.assert_close(smooth, 2 * plain)
    near = Diffusion("linear", error={"name": "pseudo_huber", "form": "huber", "c": 1.0}).error
    level = Diffusion("linear").schedule.level(TIMES, torch.float64)
    small = torch.full((B,), 1e-3, dtype=torch.float64)
    torch.testing.assert_close(near.of(small, level, small), small**2, rtol=1e-5, atol=0)


def test_another_error_takes_the_weight_in_the_targets_space_and_says_so():
    with pytest.warns(UserWarning, match="squared error in x0"):
        weighted = loss(error="huber", weighting="min_snr")
    weight = Diffusion("linear", "eps", "min_snr").loss_weight(TIMES)
    torch.testing.assert_close(weighted, loss(error="huber") * weight)


def test_the_cosine_term_is_one_minus_the_cosine_over_channels():
    found = loss(terms=[{"name": "cosine", "scale": 0.5}]) - loss()
    product = (OUTPUT * EPS).sum(1) / (OUTPUT.norm(dim=1) * EPS.norm(dim=1))
    torch.testing.assert_close(found, 0.5 * (1 - product).flatten(1).mean(1))


def test_the_contrastive_term_pushes_away_from_the_neighbours_flow():
    t = torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    flow = {"schedule": "flow", "target": "flow", "t": t}
    found = loss(terms=["contrastive"], **flow) - loss(**flow)
    velocity = EPS - X0
    for row, other in enumerate([1, 0, 3, 2, 5, 4]):
        expected = -0.05 * ((OUTPUT[row] - velocity[other]) ** 2).mean()
        torch.testing.assert_close(found[row], expected)


def test_the_contrastive_term_is_the_same_whatever_the_micro_batches_are():
    parts = {"terms": ["contrastive"], "target": "v"}
    whole = loss(**parts)
    model = Diffusion("linear", **parts)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        part = model.loss(lambda z, time, rows=rows: OUTPUT[rows], X0[rows], t=TIMES[rows], eps=EPS[rows])
        torch.testing.assert_close(part, whole[rows])


def test_an_odd_batch_cannot_be_paired():
    with pytest.raises(UserError, match="even"):
        loss(t=TIMES[:3], x0=X0[:3], eps=EPS[:3], terms=["contrastive"])


def test_terms_are_not_weighted():
    plain, weighted = (loss(weighting=name, terms=["cosine"]) - loss(weighting=name) for name in ("constant", "debias"))
    torch.testing.assert_close(plain, weighted, rtol=1e-5, atol=1e-5)


def test_errors_and_terms_are_part_of_the_spec():
    parts = {"error": {"name": "huber", "c": 0.3, "schedule": "snr"}, "terms": [{"name": "contrastive", "scale": 0.1}]}
    d = Diffusion("linear", **parts)
    assert Diffusion(**d.spec()).spec() == d.spec()
    assert d.spec()["terms"] == parts["terms"]
    assert math.isclose(d.spec()["error"]["c"], 0.3)

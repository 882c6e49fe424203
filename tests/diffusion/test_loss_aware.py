"""Timesteps drawn by their losses, against the loop of Nichol & Dhariwal 2021, section 3.3, written here."""

import pytest
import torch

from latentdebias import Diffusion
from latentdebias.errors import UserError

T, HISTORY = 6, 3


def diffusion():
    schedule = {"name": "linear", "num_timesteps": T, "beta_range": "diffusers"}
    return Diffusion(schedule, timesteps={"name": "loss_aware", "history": HISTORY, "uniform": 0.01})


def feed(history, steps=40, seed=0):
    """Random losses, most of small t, added in batches of many repeats; returns the last ones by timestep."""
    generator, kept = torch.Generator().manual_seed(seed), {t: [] for t in range(T)}
    for _ in range(steps):
        t = torch.randint(T, (7,), generator=generator)
        losses = torch.rand(7, generator=generator) * (t + 1)
        history.add(t, losses)
        for number, loss in zip(t.tolist(), losses.tolist(), strict=True):
            kept[number] = [*kept[number], loss][-HISTORY:]
    return kept


def test_the_probabilities_are_the_second_moments_of_the_last_losses():
    history = diffusion().loss_history
    kept = feed(history)
    roots = torch.tensor([torch.tensor(kept[t]).double().square().mean().sqrt() for t in range(T)])
    expected = 0.99 * roots / roots.sum() + 0.01 / T
    torch.testing.assert_close(history.probabilities(), expected, rtol=1e-6, atol=0)


def test_all_are_alike_until_each_timestep_has_a_history():
    history = diffusion().loss_history
    history.add(torch.arange(T - 1).repeat(HISTORY), torch.rand((T - 1) * HISTORY))
    torch.testing.assert_close(history.probabilities(), torch.full((T,), 1 / T).double())
    history.add(torch.tensor([T - 1] * HISTORY), torch.rand(HISTORY) + 1)
    assert history.probabilities().argmax() == T - 1


def test_draws_have_these_probabilities_and_the_weight_keeps_the_objective():
    d = diffusion()
    feed(d.loss_history)
    u = (torch.arange(60_000) + 0.5) / 60_000
    t = d.sample_timesteps(u, torch.arange(60_000), 60_000)
    shares = torch.bincount(t, minlength=T).double() / len(t)
    torch.testing.assert_close(shares, d.loss_history.probabilities(), rtol=0, atol=1e-4)
    losses = torch.rand(T)
    weighted = (losses[t] * d.loss_history.importance(t)).mean()
    assert weighted.item() == pytest.approx(losses.mean().item(), rel=1e-3)


def test_the_probabilities_are_found_once_for_a_draw_and_its_weights(monkeypatch):
    d, calls = diffusion(), []
    feed(d.loss_history)
    found = d.loss_history.probabilities
    monkeypatch.setattr(d.loss_history, "probabilities", lambda: (calls.append(1), found())[1])
    t = d.sample_timesteps(torch.rand(5), torch.arange(5), 5)
    torch.testing.assert_close(d.loss_history.importance(t).double(), 1 / (T * found()[t]), rtol=1e-6, atol=0)
    assert len(calls) == 1


def test_losses_that_are_not_finite_are_left_out():
    one, other = diffusion().loss_history, diffusion().loss_history
    feed(one)
    feed(other)
    one.add(torch.tensor([0, 1, 2]), torch.tensor([torch.nan, torch.inf, -torch.inf]))
    assert one.table[:-1].equal(other.table[:-1])


def test_a_continuous_schedule_has_no_timesteps_to_keep_losses_of():
    with pytest.raises(UserError, match="continuous"):
        Diffusion("flow", "flow", timesteps="loss_aware")

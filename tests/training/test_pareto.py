"""Weighting pareto in training: solved, logged, alike however the batch is dealt, and resumed exactly."""

import pytest
import torch
from run_files import log_of, stage

from latentdebias import Diffusion
from latentdebias.diffusion.pareto.bins import Latents, bin_gradient, inner_products, timesteps_in
from latentdebias.diffusion.pareto.solvers import regularized
from latentdebias.models.model_directory import load_model
from latentdebias.training.hooks.pareto import SAVED

PARETO = "diffusion.weighting={name: pareto, every: 2, bins: 4, solver: frank_wolfe}"


def solved(run):
    return {row["step"]: row["pareto_weights"] for row in log_of(run) if "pareto_weights" in row}


def losses(run):
    return {row["step"]: row["loss"] for row in log_of(run) if "loss" in row}


def test_the_weights_are_solved_every_so_many_steps_and_logged_with_their_cost(make_run):
    run = make_run(PARETO)
    run.train()
    weights = solved(run)
    assert list(weights) == [0, 2, 4]
    assert all(sum(each) / 4 == pytest.approx(1) for each in weights.values())
    assert weights[0] != weights[4]
    assert all(row["pareto_seconds"] > 0 for row in log_of(run) if "pareto_weights" in row)
    assert run.state.shared[SAVED].tolist() == weights[4]
    assert load_model(run.run_dir / "model").config.diffusion["weighting"]["name"] == "pareto"


def test_the_weights_are_the_minimum_for_the_gradients_of_the_next_batch(make_run):
    """At the minimum every slope with weight is w'Hw, and no slope is below it."""
    run = make_run(PARETO, "training.steps=2")
    run.train()
    network = load_model(run.run_dir / "model")
    network.backbone.load_state_dict(run.state.gathered("none"))
    batch = run._batch_at(2)
    latents = Latents(batch.latents, batch.eps, batch.labels)
    assert len(latents) == 8
    t = [timesteps_in(network.diffusion, number, 4, 8) for number in range(4)]
    matrix = regularized(inner_products([bin_gradient(network, latents, each, 8) for each in t]), 0.1)
    weights = torch.tensor(solved(run)[2], dtype=torch.float64) / 4
    slopes = matrix @ weights
    value = weights @ slopes
    assert slopes.min().item() == pytest.approx(value.item(), rel=1e-3)
    torch.testing.assert_close(slopes[weights > 1e-6], value.expand((weights > 1e-6).sum()), rtol=1e-3, atol=0)


def test_a_resumed_run_goes_on_with_the_weights_of_the_checkpoint(make_run, tmp_path):
    whole = make_run(PARETO, "training.steps=5", f"run_dir={tmp_path / 'whole'}")
    whole.train()
    for steps in (3, 5):
        resumed = make_run(PARETO, f"training.steps={steps}", "training.checkpoint_every=3")
        resumed.train()
    assert losses(resumed) == losses(whole)
    assert solved(resumed) == solved(whole)


def test_they_are_the_same_at_every_zero_stage_and_micro_batch(make_run, tmp_path):
    found = []
    for name, overrides in {"a": [stage(0)], "b": [stage(3), "training.micro_batch_size=4"]}.items():
        run = make_run(PARETO, *overrides, f"run_dir={tmp_path / name}")
        run.train()
        found.append(solved(run))
    for step in (0, 2, 4):
        torch.testing.assert_close(torch.tensor(found[0][step]), torch.tensor(found[1][step]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("schedule", "target"), [("linear", "eps"), ("flow", "flow")])
def test_bin_weights_multiply_the_weight_of_their_bin(schedule, target):
    plain, weighted = (Diffusion(schedule, target, {"name": "pareto", "bins": 4}) for _ in range(2))
    factors = torch.tensor([2.0, 0.0, 1.5, 0.5], dtype=torch.float64)
    weighted.set_bin_weights(factors)
    t = plain.schedule.from_unit((torch.arange(40, dtype=torch.float64) + 0.5) / 40)
    expected = plain.loss_weight(t) * factors.repeat_interleave(10).to(plain.loss_weight(t).dtype)
    torch.testing.assert_close(weighted.loss_weight(t), expected)
    level = plain.schedule.level(t, torch.float64)
    x0 = (plain.loss_weight(t) * (plain.target.det(level) / level.sigma) ** 2).double()
    torch.testing.assert_close(x0, torch.ones(40, dtype=torch.float64), rtol=1e-4, atol=0)

"""Losses over training, from the log."""

import shutil

import pytest
import torch
from gaussian import S
from gaussian_model import Exact, gaussian_latents, inputs_of
from run_files import write_run

from latentdebias.analysis.bins import losses_by_bin
from latentdebias.analysis.figures.loss_by_t import LossByT
from latentdebias.analysis.inputs import Inputs
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import timesteps_in
from latentdebias.errors import UserError


def record(step, losses, error=0.1):
    return {"step": step, "x0_loss_by_t": losses, "x0_loss_error_by_t": [None if x is None else error for x in losses]}


def test_points_are_means_of_log_lines(tmp_path):
    lines = [record(step, [step * (number + 1.0) for number in range(10)]) for step in (1, 2, 3, 4)]
    run = write_run(tmp_path / "run", [*lines, {"step": 4, "fid": 3.0}])
    found = LossByT(average=2).find(Inputs((run,)))
    assert found.table.columns == ("step", "bin", "loss")
    assert found.table.rows == [
        (step, number, mean * (number + 1)) for step, mean in ((2, 1.5), (4, 3.5)) for number in range(10)
    ]
    step, number, low, high = found.others["loss-by-t-intervals"].rows[0]
    assert (step, number) == (2, 0)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 2**0.5)


def test_bins_without_samples_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", [record(1, [1.0] * 9 + [None])])
    assert [row[1] for row in LossByT().find(Inputs((run,))).table.rows] == list(range(9))


def test_several_runs_have_their_label_in_front_and_a_folder_of_runs_stands_for_all(tmp_path):
    for weighting in ("constant", "debias"):
        write_run(tmp_path / "study" / weighting, [record(1, [1.0] * 10)], weighting)
    found = LossByT().find(Inputs((tmp_path / "study",)))
    assert found.table.columns == ("model", "step", "bin", "loss")
    assert {row[0] for row in found.table.rows} == {"constant", "debias"}


def test_what_is_no_run_or_logged_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="belongs to no training run"):
        LossByT().find(Inputs((tmp_path / "nowhere",)))
    run = write_run(tmp_path / "run", [{"step": 1, "loss": 1.0}])
    with pytest.raises(UserError, match="no x0_loss_by_t"):
        LossByT().find(Inputs((run,)))


@pytest.mark.parametrize("target", ["eps", "v"])
def test_the_loss_in_a_bin_is_the_variance_of_x0_given_z_over_its_timesteps(target):
    diffusion = Diffusion("cosine", target)
    [model] = inputs_of({"exact": Exact(diffusion)}).models
    losses = losses_by_bin(model.model, gaussian_latents(2000), 5, 500)
    for number, found in enumerate(losses):
        level = diffusion.schedule.level(timesteps_in(diffusion, number, 5, 2000), torch.float64)
        variance = S**2 * level.sigma**2 / (level.alpha**2 * S**2 + level.sigma**2)
        assert found.mean().item() == pytest.approx(variance.mean().item(), rel=0.02)


def test_a_folder_of_kept_models_is_computed_with_each_of_them(random_model, digit_shards, tmp_path):
    model = random_model(vae="digits")
    run = write_run(tmp_path / "run", [record(1, [1.0] * 10)])
    kept = run / "models" / "step-00000007"
    shutil.copytree(tmp_path / "model", kept)
    found = LossByT().find(Inputs((run / "models",), digit_shards, num=40))
    expected = losses_by_bin(model, Inputs((kept,), digit_shards, num=40).latents, 10, 256).mean(dim=1).tolist()
    assert found.table.columns == ("step", "bin", "loss")
    assert found.table.rows == [(7, number, pytest.approx(loss)) for number, loss in enumerate(expected)]
    both = LossByT().find(Inputs((run, run / "models"), digit_shards, num=40))
    assert {row[:2] for row in both.table.rows if row[2] == 0} == {
        ("debias (run)", 1),
        ("debias (run, kept models)", 7),
    }

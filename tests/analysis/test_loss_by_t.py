"""Losses over training, from the log."""

import pytest
from run_files import write_run

from latentdebias.analysis.figures.loss_by_t import LossByT
from latentdebias.analysis.inputs import Inputs
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

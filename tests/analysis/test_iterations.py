"""Scores over training, from records whose numbers are known."""

import dataclasses

import pytest
from run_files import write_run

from latentdebias.analysis.figures.iterations import Iterations
from latentdebias.analysis.inputs import Inputs
from latentdebias.errors import UserError
from latentdebias.evaluation.protocol.record import ProtocolRecord

RECORD = ProtocolRecord({}, [{"name": "fid"}], 100, 100, "run", "0", "images", "1", "digits", versions={})


def scored_run(folder, weighting, scores, **changes):
    run = write_run(folder, [{"step": 1}], weighting)
    (run / "evaluation").mkdir()
    for step, score in scores.items():
        record = dataclasses.replace(RECORD, scores=score, samples=str(run), **changes)
        record.write(run / "evaluation" / f"step-{step:08d}.json")
    return run


def fid(*scores):
    return {1000 * (number + 1): {"fid": score, "inception_score": 1 / score} for number, score in enumerate(scores)}


@pytest.fixture
def runs(tmp_path):
    return (
        scored_run(tmp_path / "a", "debias", fid(30.0, 20.0, 9.0, 7.0)),
        scored_run(tmp_path / "b", "constant", fid(40.0, 30.0, 25.0, 20.0, 21.0)),
        scored_run(tmp_path / "c", "p2", fid(50.0, 45.0)),
    )


@pytest.mark.parametrize("score", ["fid", "inception_score"])
def test_each_run_needs_so_many_iterations_for_the_baselines_best(runs, score):
    found = Iterations(score=score).find(Inputs(runs))
    assert found.table.columns == ("model", "iteration", score, "low", "high")
    assert len(found.table.rows) == 11
    needed = {row[0]: row[2:] for row in found.others["iterations-needed"].rows}
    assert needed == {"debias": (2000, 2.0), "constant": (4000, 1.0), "p2": (None, None)}
    assert "debias at 2000 (2x sooner)" in found.line
    assert "p2 never" in found.line


def test_the_baseline_may_be_named(runs):
    needed = {row[0]: row[2] for row in Iterations(baseline="p2").find(Inputs(runs)).others["iterations-needed"].rows}
    assert needed == {"debias": 1000, "constant": 1000, "p2": 2000}
    with pytest.raises(UserError, match="Did you mean 'p2'"):
        Iterations(baseline="p1").find(Inputs(runs))


def test_intervals_come_from_the_records(tmp_path):
    run = scored_run(tmp_path / "run", "debias", fid(30.0), intervals={"fid": (28.0, 32.0)})
    assert Iterations().find(Inputs((run,))).table.rows == [("debias", 1000, 30.0, 28.0, 32.0)]


def test_records_that_do_not_compare_are_refused(runs, tmp_path):
    other = scored_run(tmp_path / "d", "snr", fid(10.0), num_samples=50)
    with pytest.raises(UserError, match="they differ in num_samples"):
        Iterations().find(Inputs((*runs, other)))
    with pytest.raises(UserError, match="no score 'kid'"):
        Iterations(score="kid").find(Inputs(runs))
    bare = write_run(tmp_path / "e", [{"step": 1}])
    with pytest.raises(UserError, match=r"evaluation\.every"):
        Iterations().find(Inputs((bare,)))


def scores_file(folder, rows):
    head = "setting,seed,iteration,sampler,steps,fid,fid_low,fid_high"
    path = folder / "scores.csv"
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]))
    return path


@pytest.fixture
def study(tmp_path):
    fids = {"eps constant": [(40, 44), (30, 32), (20, 22), (25, 25)], "eps debias": [(45, 45), (19, 21), (10, 12), ()]}
    rows = [
        (setting, seed, 100 * (number + 1), "ddim", 10, score, score - 1, score + 1)
        for setting, scores in fids.items()
        for number, of_seeds in enumerate(scores)
        for seed, score in enumerate(of_seeds)
    ]
    other = [("eps constant", 0, 400, "ddim", 50, 3.0, 2.0, 4.0), ("eps debias", 0, 400, "ddim", 10, "", "", "")]
    return scores_file(tmp_path, [*rows, *other])


def test_a_studys_scores_are_means_over_seeds_of_the_draw_that_is_scored_most_often(study):
    found = Iterations(scores=study).find(Inputs())
    assert [row[:3] for row in found.table.rows if row[0] == "eps debias"] == [
        ("eps debias", 100, 45.0),
        ("eps debias", 200, 20.0),
        ("eps debias", 300, 11.0),
    ]
    low, high = found.table.rows[0][3:]
    assert (low, high) == pytest.approx((42 - 8**0.5, 42 + 8**0.5))
    needed = {row[0]: row[2:] for row in found.others["iterations-needed"].rows}
    assert needed == {"eps constant": (300, 1.0), "eps debias": (200, 1.5)}
    assert "(ddim, 10 steps; mean over seeds" in found.line


def test_the_draw_of_a_studys_scores_may_be_named(study):
    assert Iterations(scores=study, steps=50).find(Inputs()).table.rows == [("eps constant", 400, 3.0, 2.0, 4.0)]
    with pytest.raises(UserError, match="Legal: ddim in 10, ddim in 50"):
        Iterations(scores=study, steps=20).find(Inputs())


def test_what_is_no_table_of_scores_is_refused(tmp_path, study):
    with pytest.raises(UserError, match="cannot be read"):
        Iterations(scores=tmp_path / "nowhere").find(Inputs())
    with pytest.raises(UserError, match="no score 'kid'"):
        Iterations(scores=study, score="kid").find(Inputs())
    with pytest.raises(UserError, match=r"no scores\.csv of a study"):
        Iterations(scores=scores_file(tmp_path, [("a", 0, "many", "ddim", 10, 1.0, 0.5, 1.5)])).find(Inputs())

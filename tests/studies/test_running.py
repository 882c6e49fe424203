"""Cells in processes of their own: failures, what is skipped, and one study that is killed and goes on."""

import subprocess
import sys
import time

import pytest
from launching import ROOT

from latentdebias.distributed import environment_without_launcher
from latentdebias.errors import UserError
from latentdebias.files import try_lock
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.studies import running
from latentdebias.studies.results import results_of
from latentdebias.studies.running import Runner, failure_of, is_trained, run_study
from latentdebias.studies.scoring import Scorer, check_draws

FAKE_TRAIN = """
import sys, time
from pathlib import Path
settings = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
if settings["diffusion.weighting"] == "constant":
    print("some words", file=sys.stderr)
    sys.exit("error: no loss\\rtrain: 1%")
start = time.time()
time.sleep(2)
Path(settings["run_dir"], "trained").write_text(f"{start} {time.time()}")
"""


@pytest.fixture
def fake_runner(read_study, tmp_path, monkeypatch):
    """A runner whose `train` fails for one weighting and touches a file for others, and whose `score` does nothing."""
    for name, text in {"fake_train": FAKE_TRAIN, "fake_score": "pass"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(running, "MODULES", {"train": "fake_train", "score": "fake_score"})

    class NothingMissing:
        def missing(self, cell):
            return []

    return Runner(read_study(grid={"diffusion.weighting": ["constant", "debias", "snr"]}), NothingMissing())


def test_a_failed_cell_is_recorded_with_its_message_and_the_others_go_on(fake_runner):
    cells = fake_runner.study.cells({})
    [failed] = fake_runner.run(cells, 1, "run")
    assert failed is cells[0]
    assert failure_of(failed).startswith("train: error: no loss (exit code 1; all of it is in")
    for cell in cells[1:]:
        assert failure_of(cell) is None
        assert (cell.run_dir / "trained").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_cells_run_side_by_side_as_there_are_workers(fake_runner, workers):
    cells = fake_runner.study.cells({})[1:]
    assert fake_runner.run(cells, workers, "run") == []
    (_, first_end), (second_start, _) = sorted(
        tuple(map(float, (cell.run_dir / "trained").read_text().split())) for cell in cells
    )
    assert (second_start < first_end) == (workers == 2)


def test_a_failure_is_forgotten_when_the_cell_is_run_again(fake_runner, monkeypatch):
    cells = fake_runner.study.cells({})[:1]
    fake_runner.run(cells, 1, "run")
    monkeypatch.setattr(running, "MODULES", {"train": "fake_score"})
    assert fake_runner.run(cells, 1, "run") == []
    assert failure_of(cells[0]) is None


@pytest.fixture
def trained(read_study, process_group):
    """A study of one cell, which is trained."""
    study = read_study(grid={"diffusion.weighting": ["constant"]})
    [cell] = study.cells({})
    assert not is_trained(cell)
    Run(prepare(cell.config)).train()
    return study, cell


def test_a_trained_cell_is_scored_once_and_again_under_another_protocol(trained, read_study):
    study, cell = trained
    assert is_trained(cell)
    check_draws(study)
    scorer = Scorer.of(study)
    assert scorer.missing(cell) == list(cell.scores)
    scorer.score(cell)
    assert scorer.missing(cell) == []
    results = results_of([cell])
    assert [(each.score.iteration, each.score.draw.steps) for each in results] == [(2, 3), (4, 1), (4, 3)]
    assert all(each.intervals["fid"][0] < each.scores["fid"] < each.intervals["fid"][1] for each in results)
    assert all(cell.file(score, ".png").is_file() for score in cell.scores)
    again = read_study(grid={"diffusion.weighting": ["constant"]}, evaluate={"num": 30})
    assert len(Scorer.of(again).missing(again.cells({})[0])) == 3
    longer = read_study(grid={"diffusion.weighting": ["constant"]}, evaluate={"at": [2, 4, 6]})
    assert not is_trained(longer.cells({})[0])
    other = read_study(grid={"diffusion.weighting": ["constant"]}, set={"optimizer.lr": 0.5})
    assert not is_trained(other.cells({})[0])


def test_an_iteration_that_was_not_kept_is_a_users_error(trained, read_study):
    study = read_study(grid={"diffusion.weighting": ["constant"]}, evaluate={"at": [1, 4]})
    with pytest.raises(UserError, match="train"):
        Scorer.of(study).score(study.cells({})[0])


def test_metrics_that_give_no_score_are_a_users_error(trained, read_study):
    study = read_study(grid={"diffusion.weighting": ["constant"]}, evaluate={"extractor": "pixels", "metrics": ["fid"]})
    with pytest.raises(UserError, match="None of the study's metrics"):
        Scorer.of(study).score(study.cells({})[0])


def test_a_study_that_runs_already_is_refused(read_study):
    study = read_study()
    study.out.mkdir()
    with try_lock(study.out / "lock"), pytest.raises(UserError, match="in use"):
        run_study(study, 1)


def test_what_cannot_be_drawn_or_read_is_refused_before_training(read_study):
    with pytest.raises(UserError, match="eps-debias"):
        check_draws(
            read_study(
                grid={"diffusion.target": ["eps"], "diffusion.weighting": ["debias"]}, evaluate={"steps": [1001]}
            )
        )
    with pytest.raises(UserError, match="nowhere"):
        Scorer.of(read_study(evaluate={"reference": "nowhere"}))


@pytest.mark.launcher
def test_a_killed_study_goes_on_to_the_same_scores(write_study, tmp_path):
    """Killed while it trains, and run again, it has the scores of a study that ran without a break."""

    def words_of(out):
        grid = {"diffusion.weighting": ["constant"]}
        path = write_study(grid=grid, out=str(tmp_path / out), evaluate={"at": [2, 200]})
        return [sys.executable, "-m", "latentdebias.cli.study", "run", str(path)]

    alone = environment_without_launcher()
    subprocess.run(words_of("whole"), cwd=ROOT, env=alone, check=True, timeout=250)
    words = words_of("killed")
    with subprocess.Popen(words, cwd=ROOT, env=alone) as study:
        while not any((tmp_path / "killed").glob("cells/*/*/models/step-00000002")):
            assert study.poll() is None
            time.sleep(0.01)
        study.kill()
    assert not list((tmp_path / "killed").glob("cells/*/*/model"))
    subprocess.run(words, cwd=ROOT, env=alone, check=True, timeout=250)
    assert (tmp_path / "killed" / "scores.csv").read_text() == (tmp_path / "whole" / "scores.csv").read_text()

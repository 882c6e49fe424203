"""`latentdebias analyze` as a user runs it: every figure of a tiny model, and what it refuses."""

import csv
import sys

import pytest
from PIL import Image

from latentdebias.analysis.figures import FIGURES
from latentdebias.cli.analyze import FIGURES as ARGUMENTS

SMALL = {
    "error-by-t": ["--points", 3, "--tail-points", 2, "--num", 40],
    "one-step": ["--t", "500,999", "--images", 2, "--num", 10],
    "steps": ["--steps", "2,3", "--images", 20, "--sampler", "ddim", "--sampler", "{name: ddpm}"],
    "trajectory": ["--steps", 3, "--sampler", "heun", "--images", 1],
    "conflict": ["--bins", 2, "--iterations", 2, "--batch", 8, "--num", 16, "--blocks", 2],
    "pareto": ["--bins", 2, "--blocks", 2, "--samples", "1,2", "--repeats", 2, "--num", 16],
    "loss-by-t": [],
}
COLUMNS = {
    "error-by-t": ["model", "t", "error_eps", "error_x0", "error_target"],
    "one-step": ["model", "image", "t", "error_eps", "error_x0", "amplification"],
    "steps": ["model", "sampler", "steps", "fid", "low", "high"],
    "trajectory": ["model", "image", "t", "distance"],
    "conflict": ["trained_bin", "bin", "change"],
    "pareto": ["method", "objective"],
    "loss-by-t": ["step", "bin", "loss"],
}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_arguments_are_those_of_the_figures():
    assert sorted(ARGUMENTS) == FIGURES.names()


def test_other_tables_have_the_columns_that_scripts_rely_on(tool, model_dir, tmp_path):
    for figure in ("conflict", "pareto"):
        assert tool("analyze", figure, "--model", model_dir, "--out", tmp_path, *SMALL[figure]).code == 0
    assert list(rows(tmp_path / "cosines.csv")[0]) == ["bin_a", "bin_b", "cosine"]
    assert list(rows(tmp_path / "pareto-weights.csv")[0]) == ["method", "bin", "weight"]


def test_curves_need_no_model(tool, tmp_path):
    done = tool("analyze", "curves", "--schedule", "linear", "--weighting", "debias", "--out", tmp_path / "new")
    assert done.code == 0, done.err
    assert done.out.startswith("curves: ")
    assert done.out.count("\n") == 1
    assert list(rows(tmp_path / "new" / "curves.csv")[0]) == [
        "schedule",
        "weighting",
        "space",
        "t",
        "log_snr",
        "weight",
    ]
    assert Image.open(tmp_path / "new" / "curves.png").width > 1000


def test_curves_show_the_effective_weight_of_configs_and_runs(tool, model_dir, tmp_path):
    given = ["--config", "recipes/sd3", "--model", model_dir, "--timesteps", "{name: logit_normal, std: 0.5}"]
    done = tool("analyze", "curves", "--schedule", "linear", "--weighting", "debias", *given, "--out", tmp_path)
    assert done.code == 0, done.err
    table = rows(tmp_path / "curves-effective.csv")
    assert list(table[0]) == [
        *("objective", "schedule", "target", "weighting", "timesteps", "log_snr", "density", "weight")
    ]
    assert {row["objective"] for row in table} == {"debias", "recipes/sd3"}
    assert {row["timesteps"] for row in table} == {"uniform", "logit_normal", "logit_normal std 0.5"}


@pytest.mark.parametrize("figure", SMALL)
def test_a_figure_of_a_model_with_its_own_runs_latents(figure, tool, model_dir, tmp_path):
    done = tool("analyze", figure, "--model", model_dir, "--out", tmp_path, *SMALL[figure])
    assert done.code == 0, done.err
    assert done.out.startswith(f"{figure}: ")
    assert list(rows(tmp_path / f"{figure}.csv")[0]) == COLUMNS[figure]
    assert Image.open(tmp_path / f"{figure}.png").width > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curve"], "Did you mean 'curves'"),
        (["curves", "--schedule", "linaer"], "Did you mean 'linear'"),
        (["curves", "--space", "esp"], "Did you mean 'eps'"),
        (["curves", "--timesteps", "uniforn"], "Did you mean 'uniform'"),
        (["curves", "--config", "recipes/edm3"], "recipes/edm2.yaml"),
        (["curves", "--model", "/nowhere/model"], "belongs to no training run"),
        (["error-by-t"], "--model"),
        (["steps", "--model", "MODEL", "--images", "19"], "too few for a score"),
        (["steps", "--model", "MODEL", "--steps", "2,1001"], "steps is 1001"),
        (["iterations", "--model", "MODEL"], "no scores in evaluation/"),
        (["loss-by-t", "--model", "/nowhere/model"], "belongs to no training run"),
        (["error-by-t", "--model", "/nowhere"], "no model directory"),
        (["one-step", "--model", "MODEL", "--t", "1000"], "--t 1000 is not on the model's schedule"),
        (["error-by-t", "--model", "MODEL", "--model", "MODEL"], "given twice"),
    ],
)
def test_bad_input_is_one_paragraph(arguments, words, tool, model_dir, tmp_path):
    done = tool("analyze", *(model_dir if word == "MODEL" else word for word in arguments), "--out", tmp_path)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_how_to_install_it(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = tool("analyze", "curves", "--out", tmp_path)
    assert done.code == 2
    assert "pip install 'latentdebias[analyze]'" in done.err

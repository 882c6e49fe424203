"""Reading a study file: the cells it means, and what is refused before anything is trained."""

import shlex

import pytest

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.studies.study import Study

TUNE = {"key": "optimizer.lr", "values": [1e-5, 1e-3], "iterations": 2, "seed": 9}


def test_every_variant_meets_every_value_of_the_grid_from_every_seed(read_study):
    study = read_study(
        variants={"small": {"model.depth": 2}, "large": {"model.depth": 3, "optimizer.lr": 1e-5}},
        grid={"diffusion.target": ["eps", "v"], "optimizer.weight_decay": [0.1]},
        seeds=[3, 5],
    )
    labels = [f"{size} {target} weight_decay 0.1" for size in ("small", "large") for target in ("eps", "v")]
    assert [setting.label for setting in study.settings] == labels
    cells = study.cells({})
    assert [(cell.setting.label, cell.seed) for cell in cells] == [(label, seed) for seed in (3, 5) for label in labels]
    assert len({cell.run_dir for cell in cells}) == 8
    config = cells[3].config
    assert (config.training.seed, config.model.depth) == (3, 3)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-5, 0.1)
    assert (config.training.steps, config.training.export_at) == (4, (2, 4))


def test_cells_differ_in_what_the_grid_varies_alone(read_study):
    constant, min_snr = (cell.config.plain() for cell in read_study().cells({}))
    assert constant["diffusion"]["weighting"]["name"] == "constant"
    assert min_snr["diffusion"]["weighting"]["gamma"] == 3
    for config in (constant, min_snr):
        del config["diffusion"]["weighting"], config["run_dir"]
    assert constant == min_snr


def test_the_command_shown_gives_the_cells_config(read_study):
    cell = read_study(tune=TUNE).tuning_cells()[0]
    words = shlex.split(cell.command)
    assert words[:4] == ["latentdebias", "train", "--config", "digits_debias.yaml"]
    assert words[4::2] == ["--set"] * len(words[5::2])
    config = load_config(words[3], words[5::2])
    assert config == cell.config
    assert config.optimizer.lr == 1e-5


def test_earlier_iterations_are_scored_with_fewer_steps(read_study):
    [first, _] = read_study(evaluate={"samplers": ["ddim", {"name": "ddpm", "clip": 1.0}]}).cells({})
    scored = [(score.iteration, score.sampler, score.draw.steps) for score in first.scores]
    late = [(4, sampler, steps) for sampler in ("ddim", "ddpm clip 1.0") for steps in (1, 3)]
    assert scored == [(2, "ddim", 3), (2, "ddpm clip 1.0", 3), *late]
    assert len({first.file(score, ".json") for score in first.scores}) == len(scored)


def test_every_setting_is_tuned_over_the_same_values(read_study):
    study = read_study(tune=TUNE)
    cells = study.tuning_cells()
    assert [cell.config.optimizer.lr for cell in cells] == [1e-5, 1e-5, 1e-3, 1e-3]
    assert {(cell.seed, cell.iterations, cell.scores[0].draw.steps) for cell in cells} == {(9, 2, 3)}
    tuned = study.cells({"min_snr gamma 3": 1e-3})
    assert [cell.config.optimizer.lr for cell in tuned] == [load_config("digits_debias.yaml").optimizer.lr, 1e-3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {}}, "grid is empty"),
        ({"grid": {"optimizer.lr": []}}, "'grid.optimizer.lr'"),
        ({"grids": {}}, "Did you mean 'grid'"),
        ({"grid": {"difusion.target": ["eps"]}}, "Did you mean 'diffusion'"),
        ({"grid": {"diffusion.weighting": ["debais"]}}, "Did you mean 'debias'"),
        ({"grid": {"training.seed": [1, 2]}}, "give seeds in its place"),
        ({"set": {"run_dir": "x"}}, "give out in its place"),
        ({"grid": {"diffusion.target": ["eps", "eps"]}}, "Two settings are named 'eps'"),
        ({"baseline": "constnat"}, "Did you mean 'constant'"),
        ({"seeds": [1, 1]}, "list each number once"),
        ({"seeds": []}, "'seeds'"),
        ({"evaluate": {"at": [4, 2]}}, "rising order"),
        ({"evaluate": {"metrics": ["fdi"]}}, "Did you mean 'fid'"),
        ({"evaluate": {"samplers": ["hune"]}}, "Did you mean 'heun'"),
        ({"evaluate": {"num": 5}}, "'evaluate.num'"),
        ({"tune": {**TUNE, "vals": [1]}}, "Did you mean 'values'"),
        ({"tune": {**TUNE, "seed": 0}}, "would favour its run"),
        ({"tune": {**TUNE, "by": "fidd"}}, "Did you mean 'fid'"),
        ({"base": "digits_debais.yaml"}, "Did you mean 'digits_debias.yaml'"),
    ],
)
def test_a_mistake_is_named_with_what_is_legal(write_study, changes, words):
    with pytest.raises(UserError, match=words):
        Study.read(write_study(**changes))


@pytest.mark.parametrize(("text", "words"), [("- a", "must be a mapping"), ("a: [", "not valid YAML")])
def test_a_file_that_is_no_study_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        Study.read(path)
    with pytest.raises(UserError, match="no study file"):
        Study.read(tmp_path / "none.yaml")

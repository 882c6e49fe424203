"""The translation table of docs/weightings.md against the weightings themselves."""

import math
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from latentdebias import Diffusion
from latentdebias.diffusion import WEIGHTINGS
from latentdebias.diffusion.weightings.reference import BY_SCHEDULE, CODES, ROWS, text

DOCS = Path(__file__).parents[2] / "docs"
T = torch.arange(0, 1000, 7)


def evaluated(formula, **names):
    s = Diffusion("linear", "v").schedule.level(T, torch.float64).snr
    known = {"s": s, "pi": math.pi, "exp": math.exp, "sqrt": torch.sqrt}
    known |= {"min": lambda a, b: a.clamp(max=b), "max": lambda a, b: a.clamp(min=b), **names}
    return eval(formula, {"__builtins__": {}}, known) * torch.ones_like(s)


def weight(spec, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Diffusion("linear", target, spec).loss_weight(T).double()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("target", ["eps", "x0", "v", "flow", "edm"])
def test_a_formula_is_the_weight_in_its_space(row, target):
    torch.testing.assert_close(weight(row.name, target), evaluated(row.formulas()[target]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("code", "target", "formula", "here"), CODES, ids=lambda each: str(each)[:40])
@pytest.mark.parametrize("gamma", [1.5, 5.0])
def test_the_line_of_yaml_computes_what_the_other_code_computes(code, target, formula, here, gamma):
    spec = yaml.safe_load(here.replace(": g", f": {gamma}"))
    torch.testing.assert_close(weight(spec, target), evaluated(formula, g=gamma), rtol=1e-5, atol=0)


def test_every_weighting_has_its_row():
    named = {row.name for row in ROWS} | BY_SCHEDULE.keys()
    others = {yaml.safe_load(here) if "{" not in here else here[7:].split(",")[0].strip("}") for *_, here in CODES}
    assert set(WEIGHTINGS.names()) <= named | others


def test_the_page_is_the_one_that_the_code_writes():
    assert (DOCS / "weightings.md").read_text() == text()
    assert (DOCS / "weightings.png").stat().st_size > 10_000

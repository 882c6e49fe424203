"""Every study that is shipped reads, and its networks can be built."""

from pathlib import Path

import pytest

from latentdebias.studies import experiments
from latentdebias.studies.experiments import section
from latentdebias.studies.study import Study

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_network_of_a_shipped_study_is_built_and_documented(path):
    """The section of the documentation holds the parameters of every network, which are counted on the meta device."""
    told = (ROOT / "docs" / "experiments.md").read_text()
    assert section(path) in told, f"write it anew: python -m {experiments.__name__} > docs/experiments.md"
    for cell in Study.read(path).cells({}):
        cell.config.diffusion.build()


def test_the_digits_study_is_the_one_that_was_asked_for():
    [path] = [path for path in SHIPPED if path.stem == "digits"]
    study = Study.read(path)
    specs = [cell.config.diffusion.build().spec() for cell in study.cells({})]
    pairs = {(spec["target"]["name"], spec["weighting"]["name"]) for spec in specs}
    eps = {("eps", name) for name in ("constant", "p2", "min_snr", "debias", "inv_snr")}
    assert pairs == eps | {(target, name) for target in ("x0", "v") for name in ("constant", "min_snr")}
    assert len(study.options.seeds) >= 3
    assert set(study.evaluate.steps) == {2, 5, 10, 20, 50, 250}
    assert len(study.evaluate.at) >= 6

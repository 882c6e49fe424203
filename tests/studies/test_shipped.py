"""Every study that is shipped reads, and its networks can be built."""

from pathlib import Path

import pytest

from latentdebias.prepare import describe_model, stated_network
from latentdebias.studies.study import Study

SHIPPED = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_study_builds(path):
    study = Study.read(path)
    described = {}
    for cell in study.cells({}):
        key = repr((cell.config.model, cell.config.diffusion.variance))
        if key not in described:
            network = stated_network(cell.config)
            assert network is not None, "the config states its latents, so that the network is checked without shards"
            described[key] = describe_model(cell.config, network)
        cell.config.diffusion.build()
        assert "M parameters on latents" in described[key]


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

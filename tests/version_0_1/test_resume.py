"""A run of version 0.1.0 goes on: its checkpoint, its settings, its losses.

`run.yaml` is the config it was trained with; two of its keys, under `sampling`, have moved since and decide no loss.
"""

import json
import shutil
from pathlib import Path

import pytest

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.prepare import prepare
from latentdebias.run import Run

HERE = Path(__file__).parent
LOSSES = {
    record["step"]: (record["loss"], record["grad_norm"])
    for record in map(json.loads, (HERE / "run" / "log.jsonl").read_text().splitlines())
}


@pytest.fixture
def config_of(tmp_path, process_group):
    """The run's config, with its directory copied to where it may be written to."""
    shutil.copytree(HERE / "run" / "checkpoints", tmp_path / "run" / "checkpoints")
    text = (HERE / "run.yaml").read_text().replace("guidance_interval: [0.1, 0.9]", "zero_init: 0")
    (tmp_path / "run.yaml").write_text(text)
    places = [f"run_dir={tmp_path / 'run'}", f"data.shards={HERE / 'shards'}"]

    def make(*overrides):
        return load_config(str(tmp_path / "run.yaml"), [*places, *overrides])

    return make


def logged(run_dir):
    return [json.loads(line) for line in (Path(run_dir) / "log.jsonl").read_text().splitlines()]


def test_it_resumes_to_the_losses_of_then(config_of):
    config = config_of()
    Run(prepare(config)).train()
    records = logged(config.run_dir)
    assert [record["step"] for record in records] == [5, 6, 7, 8]
    for record in records:
        # The bits are those of the machine that wrote them.
        assert (record["loss"], record["grad_norm"]) == pytest.approx(LOSSES[record["step"]], rel=1e-5)


def test_from_the_start_the_losses_are_those_of_then(config_of, tmp_path):
    config = config_of(f"run_dir={tmp_path / 'anew'}")
    Run(prepare(config)).train()
    found = {record["step"]: (record["loss"], record["grad_norm"]) for record in logged(config.run_dir)}
    assert found.keys() == LOSSES.keys()
    for step, values in found.items():
        assert values == pytest.approx(LOSSES[step], rel=1e-5)


def test_a_setting_that_differs_is_named_and_one_that_is_new_counts_as_its_default(config_of):
    run = Run(prepare(config_of("diffusion.weighting.gamma=5", "model.registers=1")))
    with pytest.raises(UserError) as error:
        run.checkpoints.resume()
    assert "diffusion.weighting" in str(error.value)
    assert "model.registers: 0 there, 1 now" in str(error.value)

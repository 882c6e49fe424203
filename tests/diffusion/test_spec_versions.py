import pytest
import torch

from latentdebias import Diffusion
from latentdebias.diffusion.spec_versions import of_version_1


def test_linear_of_another_number_of_timesteps_keeps_its_betas():
    spec = {"schedule": {"name": "linear", "num_timesteps": 250, "beta_end": 0.03}, "target": "v"}
    d = Diffusion(**of_version_1(spec))
    torch.testing.assert_close(d.schedule.betas(), torch.linspace(1e-4, 0.03, 250, dtype=torch.float64))
    assert "beta_range" not in spec["schedule"]


@pytest.mark.parametrize(
    "schedule",
    [
        "linear",
        {"name": "linear"},
        {"name": "linear", "num_timesteps": 1000, "zero_terminal_snr": True},
        {"name": "cosine", "num_timesteps": 250},
        {"name": "flow", "shift": 3.0},
    ],
    ids=str,
)
def test_every_other_process_is_stated_as_it_was(schedule):
    spec = {"schedule": schedule, "target": "v", "weighting": "min_snr"}
    assert of_version_1(spec) == spec


def test_a_process_of_the_default_schedule_stays():
    assert of_version_1({"target": "v"}) == {"target": "v"}

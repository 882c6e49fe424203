"""The forms in which `--device` names a GPU."""

import pytest
import torch

from latentdebias.devices import open_device
from latentdebias.errors import UserError


@pytest.mark.parametrize("name", [None, "cuda", "cuda:0"])
def test_a_gpu_is_opened_with_its_number(name):
    assert open_device(name) == torch.device("cuda", 0)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("name", ["cuda:99", "cuda:banana"])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(UserError, match=f"--device '{name}'.*Legal here: cpu, cuda, cuda:0"):
        open_device(name)


def test_a_cpu_stays_a_choice():
    assert open_device("cpu") == torch.device("cpu")

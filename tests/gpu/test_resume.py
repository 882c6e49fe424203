"""The state of every optimizer comes back from a checkpoint's file to the devices where it was, bit for bit."""

import pytest
import torch
from run_files import log_of
from state_devices import SPECS, placed, state_of, update, weights_of

from latentdebias.training.checkpoints.run_state import SavedState


@pytest.mark.parametrize("name", SPECS)
def test_every_optimizer_resumes_on_its_devices(tmp_path, device, name):
    saved, optimizer = state_of(SPECS[name], device)
    update(optimizer)
    update(optimizer)
    saved.share().write(tmp_path / "rank-00000.safetensors")
    resumed, fresh = state_of(SPECS[name], device)
    resumed.restore(SavedState([tmp_path / "rank-00000.safetensors"]))
    assert placed(fresh) == placed(optimizer)
    update(optimizer)
    update(fresh)
    for weight, expected in zip(weights_of(fresh), weights_of(optimizer), strict=True):
        assert torch.equal(weight, expected)


@pytest.mark.parametrize("opt", ["adafactorbv", "novograd", "laprop"])
def test_a_run_resumes_on_its_devices(make_run, opt):
    same = [f"optimizer={{name: timm, opt: {opt}, lr: 1.0e-3}}", "deepspeed.zero_optimization.stage=0"]
    run = make_run(*same, "training.steps=2")
    run.train()
    resumed = make_run(*same, "training.steps=4")
    resumed.train()
    assert placed(resumed.engine.base_optimizer) == placed(run.engine.base_optimizer)
    assert len(log_of(resumed)) == 4

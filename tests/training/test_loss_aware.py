"""Timesteps drawn by their losses in training: alike however the batch is dealt, and resumed exactly."""

import pytest
import torch
from run_files import log_of

from latentdebias.errors import UserError

AWARE = [
    "diffusion.schedule={name: linear, num_timesteps: 30, beta_range: diffusers}",
    "diffusion.timesteps={name: loss_aware, history: 1}",
    "sampling.steps=2",
    "training.batch_size=32",
]


def losses(run):
    return {row["step"]: row["loss"] for row in log_of(run) if "loss" in row}


def test_a_resumed_run_goes_on_with_the_losses_of_the_checkpoint(make_run, tmp_path):
    whole = make_run(*AWARE, "training.steps=8", f"run_dir={tmp_path / 'whole'}")
    whole.train()
    for steps in (5, 8):
        resumed = make_run(*AWARE, f"training.steps={steps}", "training.checkpoint_every=5")
        resumed.train()
    assert losses(resumed) == losses(whole)
    history = whole.diffusion.loss_history
    assert resumed.diffusion.loss_history.table.equal(history.table)
    # Some timesteps are drawn more often by now: the history is in use.
    assert history.probabilities().max() > 1.5 / 30


def test_the_history_does_not_depend_on_the_micro_batches(make_run, tmp_path):
    tables = []
    for size in (32, 8):
        run = make_run(
            *AWARE, "training.steps=3", f"training.micro_batch_size={size}", f"run_dir={tmp_path / str(size)}"
        )
        run.train()
        tables.append(run.diffusion.loss_history.table)
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-4, atol=1e-5)


def test_a_run_may_change_to_it_and_not_to_another_history(make_run):
    plain = [AWARE[0], *AWARE[2:]]
    make_run(*plain, "training.steps=2", "training.checkpoint_every=2").train()
    changed = ["training.may_change=[diffusion.timesteps]", "training.checkpoint_every=2"]
    make_run(*AWARE, *changed, "training.steps=4").train()
    longer = "diffusion.timesteps={name: loss_aware, history: 2}"
    with pytest.raises(UserError, match="loss_history"):
        make_run(*plain, longer, *changed, "training.steps=6").train()

"""Token routing in a run: the choice of tokens is a function of (seed, step, sample), however the run is cut up."""

import functools
import json

import pytest
import torch

ROUTED = "model={name: min_snr_vit, width: 32, depth: 3, heads: 2, patch_size: 1, routing: {start: 1, end: 2}}"
SHARE = "model.routing.share=0.5"


def losses(make_run, folder, *overrides):
    run = make_run(f"run_dir={folder}", ROUTED, SHARE, *overrides)
    run.train()
    return [json.loads(line)["loss"] for line in (run.run_dir / "log.jsonl").read_text().splitlines()]


CUT_UP = ["training.micro_batch_size=2", "training.activation_checkpointing=blocks"]


@pytest.mark.parametrize("also", [[], ["training.compile=blocks"]], ids=["plain", "compiled"])
def test_losses_do_not_depend_on_micro_batches_checkpointing_or_zero_stage(make_run, tmp_path, monkeypatch, also):
    # What TorchDynamo makes of the blocks, without the minutes that Inductor takes for two numbers of tokens.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    whole = losses(make_run, tmp_path / "whole", "deepspeed.zero_optimization.stage=0")
    parts = losses(make_run, tmp_path / "parts", "deepspeed.zero_optimization.stage=3", *CUT_UP, *also)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_routing_changes_the_losses(make_run, tmp_path):
    whole, plain = losses(make_run, tmp_path / "whole"), losses(make_run, tmp_path / "none", "model.routing.share=0")
    assert plain != pytest.approx(whole, rel=1e-4)


def test_a_resumed_run_routes_as_it_would_have(make_run, tmp_path):
    whole = losses(make_run, tmp_path / "whole")
    losses(make_run, tmp_path / "parts", "training.steps=2")
    assert losses(make_run, tmp_path / "parts") == whole

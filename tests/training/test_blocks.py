"""Checkpointed and compiled blocks: the same run, for less memory or in less time."""

import json
from collections import Counter

import pytest
import torch
from torch import nn

from latentdebias.backbones import BACKBONES, blocks
from latentdebias.backbones.blocks import checkpoint_blocks, compile_blocks, repeated_blocks
from latentdebias.errors import UserError

DIT = {"name": "dit", "width": 32, "depth": 3, "heads": 2, "patch_size": 1}
MIN_SNR_VIT = {**DIT, "name": "min_snr_vit"}
TIMM_VIT = {"name": "vit", "timm_name": "vit_tiny_patch16_224"}
UVIT = {"name": "uvit", "width": 32, "depth": 3, "heads": 2}
UNET_SIZE = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1, "attention_sides": [4], "head_width": 16}
UNET = {"name": "unet", **UNET_SIZE}
LDM_UNET = {"name": "ldm_unet", **UNET_SIZE, "context_width": 24}
CHECKPOINTED, COMPILED = "training.activation_checkpointing=blocks", "training.compile=blocks"


# Unlike those of a DiT, its blocks pass on their inputs from the first step.
VIT = "model={name: min_snr_vit, width: 32, depth: 3, heads: 2, patch_size: 1}"


def outcome(make_run, folder, *overrides):
    """The losses and the trained weights."""
    run = make_run(f"run_dir={folder}", VIT, *overrides)
    run.train()
    losses = [json.loads(line)["loss"] for line in (run.run_dir / "log.jsonl").read_text().splitlines()]
    return losses, run.zero_state.gathered_weights()


def saved_bytes(backbone):
    """Bytes that the forward pass keeps for the backward pass, parameters aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(torch.randn(4, 4, 4, 4), torch.rand(4), torch.arange(4))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("spec", [DIT, MIN_SNR_VIT, TIMM_VIT, UVIT, UNET, LDM_UNET], ids=lambda spec: spec["name"])
def test_a_forward_runs_each_block_and_each_layer_once(spec):
    """Once: a module that runs twice in a step has had wrong gradients at ZeRO stage 2 (DeepSpeed issue 8224)."""
    backbone, runs = BACKBONES.build(spec).build(8, 4, 10), Counter()
    blocks = repeated_blocks(backbone)
    for module in {*blocks, *(module for module in backbone.modules() if list(module.parameters(recurse=False)))}:
        module.register_forward_hook(lambda module, inputs, outputs: runs.update([module]))
    backbone(torch.randn(2, 4, 8, 8), torch.rand(2), torch.arange(2))
    assert set(runs.values()) == {1}
    assert runs.keys() >= set(blocks)


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match="attribute `blocks`"):
        repeated_blocks(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("change", [checkpoint_blocks, compile_blocks])
def test_weights_keep_their_names(change):
    backbone = BACKBONES.build(DIT).build(4, 4, 10)
    keys, names = list(backbone.state_dict()), [name for name, _ in backbone.named_parameters()]
    change(backbone)
    assert list(backbone.state_dict()) == keys
    assert [name for name, _ in backbone.named_parameters()] == names


@pytest.mark.parametrize("spec", [TIMM_VIT, UVIT, UNET], ids=lambda spec: spec["name"])
def test_gradients_of_other_backbones_are_the_same(spec):
    backbone = BACKBONES.build(spec).build(8, 4, 10)
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for parameter in parameters:
        # Away from an initialisation at zero, where a block's gradient is zero in any case.
        nn.init.normal_(parameter, std=0.1)
    batch = torch.randn(2, 4, 8, 8), torch.rand(2), torch.arange(2)
    plain = torch.autograd.grad(backbone(*batch).sum(), parameters)
    checkpoint_blocks(backbone)
    checkpointed = torch.autograd.grad(backbone(*batch).sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


@pytest.mark.parametrize("spec", [DIT, MIN_SNR_VIT, TIMM_VIT, UVIT, UNET, LDM_UNET], ids=lambda spec: spec["name"])
def test_checkpoint_gets_every_tensor_by_position(spec, monkeypatch):
    """It saves the random state of the devices of these alone."""
    calls = []

    def checkpoint(forward, *args, use_reentrant, **kwargs):
        calls.append((args, kwargs))
        return forward(*args, **kwargs)

    monkeypatch.setattr(blocks, "checkpoint", checkpoint)
    backbone = BACKBONES.build(spec).build(8, 4, 10)
    checkpoint_blocks(backbone)
    backbone(torch.randn(2, 4, 8, 8), torch.rand(2), torch.arange(2))
    assert len(calls) == len(repeated_blocks(backbone))
    for args, kwargs in calls:
        assert isinstance(args[0], torch.Tensor)
        assert not any(isinstance(value, torch.Tensor) for value in kwargs.values())


def test_diffusers_calls_a_down_block_by_keyword(monkeypatch):
    backbone, calls = BACKBONES.build(UNET).build(8, 4, 10), []
    backbone.blocks[0].register_forward_pre_hook(lambda *found: calls.append(found[1:]), with_kwargs=True)
    backbone(torch.randn(2, 4, 8, 8), torch.rand(2), torch.arange(2))
    ((args, kwargs),) = calls
    assert not args
    assert isinstance(kwargs["hidden_states"], torch.Tensor)


def test_checkpointing_keeps_less_for_the_backward_pass():
    plain, checkpointed = (BACKBONES.build(DIT).build(4, 4, 10) for _ in range(2))
    checkpoint_blocks(checkpointed)
    assert saved_bytes(checkpointed) < 0.3 * saved_bytes(plain)


# Pairs of stage and precision; test_runs.py resumes with the others.
@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_checkpointed_blocks_give_the_same_losses_bit_for_bit(make_run, tmp_path, zero_stage, precision):
    same = [f"deepspeed.zero_optimization.stage={zero_stage}", f"training.precision={precision}"]
    expected, weights = outcome(make_run, tmp_path / "plain", *same)
    found, checkpointed = outcome(make_run, tmp_path / "checkpointed", *same, CHECKPOINTED)
    assert found == expected
    assert all(torch.equal(checkpointed[name], weight) for name, weight in weights.items())


def test_a_run_resumes_with_checkpointed_blocks(make_run, tmp_path):
    same = "deepspeed.zero_optimization.stage=3"
    expected, _ = outcome(make_run, tmp_path / "whole", same)
    outcome(make_run, tmp_path / "parts", same, "training.steps=2")
    found, _ = outcome(make_run, tmp_path / "parts", same, CHECKPOINTED)
    assert found == expected


@pytest.mark.parametrize(
    ("zero_stage", "also"),
    [(0, [CHECKPOINTED]), (2, []), (3, [CHECKPOINTED])],
    ids=["0-checkpointed", "2-alone", "3-checkpointed"],
)
def test_compiled_blocks_give_the_same_losses(make_run, tmp_path, zero_stage, also):
    same = f"deepspeed.zero_optimization.stage={zero_stage}"
    expected, _ = outcome(make_run, tmp_path / "plain", same)
    found, _ = outcome(make_run, tmp_path / "compiled", same, COMPILED, *also)
    assert found == pytest.approx(expected, rel=1e-4)


def test_equal_blocks_are_compiled_once():
    backbone = BACKBONES.build({**DIT, "depth": 12}).build(4, 4, 10)
    compile_blocks(backbone)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    backbone(torch.randn(4, 4, 4, 4), torch.rand(4), torch.arange(4))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1

"""Optimizers: what they are built with, the probe of what ZeRO may cut, and whole runs with them."""

import json
from dataclasses import dataclass

import pytest
import timm.optim
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.plan import plan_run
from latentdebias.prepare import prepare
from latentdebias.training.optimizers import (
    OPTIMIZERS,
    TIMM_NAMES,
    OptimizerSpec,
    check_learned_weight,
    check_optimizer,
    is_elementwise,
)


def timm_spec(opt, **fields):
    return OPTIMIZERS.build({"name": "timm", "opt": opt, "lr": 1e-3, **fields})


def tiny_dit():
    return BACKBONES.build({"name": "dit", "width": 32, "depth": 2, "heads": 2, "patch_size": 1}).build(4, 4, 10)


def losses(make_run, folder, *overrides):
    run = make_run(f"run_dir={folder}", *overrides)
    run.train()
    return [json.loads(line)["loss"] for line in (run.run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_fused_adamw_skips_the_update_where_found_inf_is_set(found_inf):
    backbone = tiny_dit()
    optimizer = OPTIMIZERS.build("adamw").build(backbone)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.full_like(parameter, float("nan") if found_inf else 1.0)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(found_inf), None
    optimizer.step()
    same = [torch.equal(before[name], weight) for name, weight in backbone.state_dict().items() if name != "pos_embed"]
    assert all(same) if found_inf else not any(same)
    state = next(iter(optimizer.state.values()))
    assert state["step"] == 1 - found_inf
    assert state["exp_avg"].isfinite().all()


@pytest.mark.parametrize("opt", ["adamw", "lion", "adopt", "nadamw", "sgd"])
def test_elementwise_optimizers_pass_the_probe(opt):
    assert is_elementwise(timm_spec(opt, weight_decay=0.1))
    check_optimizer(timm_spec(opt, weight_decay=0.1), zero_stage=3)


def test_a_norm_over_all_weights_fails_the_probe_too():
    """Without decay, lamb still clips by the norm of the gradients at hand, which under ZeRO are one rank's."""
    assert not is_elementwise(timm_spec("lamb"))


def test_fused_adamw_passes_the_probe():
    assert is_elementwise(OPTIMIZERS.build({"name": "adamw", "weight_decay": 0.1}))


@pytest.mark.parametrize(
    "opt", ["muon", "adamuon", "lamb", "lars", "adafactor", "adafactorbv", "adamp", "sgdp", "cadamw", "cadopt"]
)
def test_optimizers_that_look_at_whole_parameters_are_refused_under_zero(opt):
    spec = timm_spec(opt, weight_decay=0.1)
    check_optimizer(spec, zero_stage=0)
    with pytest.raises(UserError, match=rf"'{opt}'.*deepspeed\.zero_optimization\.stage=0"):
        check_optimizer(spec, zero_stage=1)


@pytest.mark.parametrize(
    ("opt", "fields", "words"),
    [
        ("muonn", {}, "Did you mean 'muon'"),
        ("adahessian", {}, "Unknown optimizer.opt"),
        ("lion", {"momentum": 0.9}, "takes no momentum"),
        ("sgd", {"betas": [0.9, 0.99]}, "takes no betas"),
    ],
)
def test_bad_names_and_fields_without_effect_are_refused(opt, fields, words):
    with pytest.raises(UserError) as error:
        check_optimizer(timm_spec(opt, **fields), zero_stage=0)
    assert words in str(error.value)


def test_given_fields_reach_timms_optimizer():
    optimizer = timm_spec("nadamw", betas=[0.8, 0.9], eps=1e-5).build(tiny_dit())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.9), 1e-5)


def test_timms_optimizers_decay_matrices_only():
    groups = timm_spec("lion", weight_decay=0.1).build(tiny_dit()).param_groups
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    trained = [parameter for parameter in tiny_dit().parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    backbone = tiny_dit()
    optimizer = timm_spec("muon").build(backbone)
    assert isinstance(optimizer, timm.optim.Muon)
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    by_muon = {name for name, parameter in trained.items() if optimizer.state[parameter]["use_muon"]}
    assert by_muon == {name for name, p in trained.items() if name.startswith("blocks.") and p.ndim == 2}


def test_every_optimizer_trains_the_vector_of_a_learned_weighting():
    check_learned_weight(OPTIMIZERS.build("adamw"))
    for opt in TIMM_NAMES:
        check_learned_weight(timm_spec(opt))


def of_blocks_alone(backbone):
    return torch.optim.SGD(backbone.blocks.parameters(), lr=0.1)


def of_matrices_alone(backbone):
    if any(weight.dim() < 2 for weight in backbone.parameters()):
        raise ValueError("Muon takes 2D parameters alone")
    return torch.optim.SGD(backbone.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("build", "words"), [(of_blocks_alone, "leaves it as it is"), (of_matrices_alone, "2D parameters alone")]
)
def test_an_optimizer_that_cannot_train_a_learned_weighting_is_refused(build, words, small_run, monkeypatch):
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))

    @OPTIMIZERS.register("own")
    @dataclass(frozen=True, kw_only=True)
    class Own(OptimizerSpec):
        def build(self, backbone):
            return build(backbone)

    learned = ["diffusion.weighting=edm2_uncertainty", "diffusion.schedule=edm", "diffusion.target=edm"]
    config = load_config("digits_debias.yaml", [*small_run, *learned, "optimizer={name: own}"])
    for check in (prepare, lambda run: plan_run(run, gpus=1)):
        with pytest.raises(UserError, match=rf"'own'.*{words}.*adamw"):
            check(config)


def test_each_group_keeps_its_own_learning_rate(make_run):
    run = make_run()
    groups = run.engine.deepspeed.optimizer.param_groups
    run.engine.set_lr(0.5)
    run.engine.set_lr(0.25)
    assert [group["lr"] for group in groups] == [0.25 * run.config.optimizer.lr] * len(groups)


def test_an_optimizer_that_counts_its_steps_in_groups_is_refused_at_stage_3():
    check_optimizer(timm_spec("adan"), zero_stage=2)
    with pytest.raises(UserError, match="counts its steps"):
        check_optimizer(timm_spec("adan"), zero_stage=3)


@pytest.mark.parametrize("opt", ["muon", "lamb", "adan"])
def test_others_resume_exactly_at_stage_0(make_run, tmp_path, opt):
    """Lamb and adan count their steps in their groups, as a tensor and as a number."""
    same = [
        f"optimizer={{name: timm, opt: {opt}, lr: 1.0e-3, weight_decay: 0.01}}",
        "deepspeed.zero_optimization.stage=0",
    ]
    whole = losses(make_run, tmp_path / "whole", *same)
    losses(make_run, tmp_path / "parts", *same, "training.steps=2")
    assert losses(make_run, tmp_path / "parts", *same) == whole


def test_lion_takes_the_same_steps_at_every_stage_and_resumes(make_run, tmp_path):
    lion = "optimizer={name: timm, opt: lion, lr: 1.0e-3, weight_decay: 0.01}"
    curves = []
    for zero_stage in range(4):
        same = [lion, f"deepspeed.zero_optimization.stage={zero_stage}"]
        losses(make_run, tmp_path / str(zero_stage), *same, "training.steps=2")
        curves.append(losses(make_run, tmp_path / str(zero_stage), *same))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["{lr: 1.0e-3}", "{name: timm, opt: adamw, lr: 1.0e-3}"], ids=["fused", "timm"])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_optimizer_state_on_the_cpu_gives_the_same_losses(make_run, tmp_path, zero_stage, optimizer):
    same = [f"deepspeed.zero_optimization.stage={zero_stage}", f"optimizer={optimizer}"]
    here = losses(make_run, tmp_path / "here", *same)
    offload = "deepspeed.zero_optimization.offload_optimizer.device=cpu"
    assert losses(make_run, tmp_path / "offloaded", *same, offload) == pytest.approx(here, rel=1e-6)

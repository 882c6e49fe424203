"""Every optimizer that a run may name, and where one keeps its state."""

from types import SimpleNamespace

import torch
from torch import nn

from latentdebias.training.checkpoints.run_state import RunState
from latentdebias.training.ema import EMAOptions, PartitionedEMA
from latentdebias.training.optimizers import TIMM_NAMES, AdamW, TimmOptimizer
from latentdebias.training.zero_state import ZeroState

SPECS = {"fused adamw": AdamW(), **{name: TimmOptimizer(opt=name, lr=1e-3) for name in TIMM_NAMES}}


def state_of(spec, device):
    """The run state of a small backbone on `device` under `spec`, and its optimizer."""
    with torch.device(device):
        backbone = nn.Module()
        backbone.blocks, backbone.final = nn.ModuleList([nn.Linear(144, 160)]), nn.Linear(144, 20)
    optimizer = spec.build(backbone)
    engine = SimpleNamespace(
        zero_stage=0,
        device=torch.device(device),
        deepspeed=SimpleNamespace(module=backbone, optimizer=optimizer),
        base_optimizer=optimizer,
        trained=dict(backbone.named_parameters()),
    )
    zero_state = ZeroState(engine)
    return RunState(zero_state, PartitionedEMA(zero_state.partitions, EMAOptions())), optimizer


def weights_of(optimizer):
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def update(optimizer):
    """One update with gradients that follow from the weights."""
    for weight in weights_of(optimizer):
        weight.grad = weight.detach().cos()
    optimizer.step()


def placed(optimizer):
    """The device, the dtype and the shape of every tensor of an optimizer's state."""
    return [
        {
            name: (value.device, value.dtype, value.shape)
            for name, value in optimizer.state[weight].items()
            if torch.is_tensor(value)
        }
        for weight in weights_of(optimizer)
    ]

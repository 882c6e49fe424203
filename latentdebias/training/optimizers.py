"""Optimizers, and the check that ZeRO may cut one's parameters into flat pieces."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

import timm.optim
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from latentdebias.backbones.blocks import repeated_blocks
from latentdebias.diffusion.weightings.learned import ATTRIBUTE, Uncertainty
from latentdebias.errors import UserError, legal_choices
from latentdebias.registry import Registry

Beta = Annotated[float, Field(ge=0, lt=1)]

# Of timm's names, left out are those that need CUDA extensions or second derivatives, whose state is set up before the
# first step (adagrad) and whose state is no tensor (kron).
LEFT_OUT = ["fused*", "bnb*", "adahessian", "adagrad", "kron*"]
TIMM_NAMES = [str(name) for name in timm.optim.list_optimizers(exclude_filters=LEFT_OUT)]


class OptimizerSpec(ABC):
    """The options of an optimizer; `build` makes the optimizer for a backbone."""

    @abstractmethod
    def build(self, backbone: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the backbone's trainable parameters."""


OPTIMIZERS: Registry[OptimizerSpec] = Registry("optimizer")


@OPTIMIZERS.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerSpec):
    """torch's fused AdamW (Loshchilov & Hutter 2019), with the same decay for every parameter."""

    lr: PositiveFloat = 1e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0

    def build(self, backbone: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [parameter for parameter in backbone.parameters() if parameter.requires_grad],
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


@OPTIMIZERS.register("timm")
@dataclass(frozen=True, kw_only=True)
class TimmOptimizer(OptimizerSpec):
    """Any optimizer of timm's factory by its name there; what is left at None has the factory's default.

    Biases and other 1-D parameters do not decay. Muon (Jordan et al. 2024) takes the matrices of the repeated blocks,
    and its AdamW all else: embeddings, the output layer, biases.
    """

    opt: str
    lr: PositiveFloat
    betas: tuple[Beta, ...] | None = None
    eps: PositiveFloat | None = None
    momentum: Beta | None = None
    weight_decay: NonNegativeFloat = 0.0

    def build(self, backbone: nn.Module) -> torch.optim.Optimizer:
        if self.opt not in TIMM_NAMES:
            raise UserError(f"Unknown optimizer.opt {self.opt!r} of timm. {legal_choices(self.opt, TIMM_NAMES)}")
        options = self._given_options()
        if timm.optim.get_optimizer_class(self.opt, bind_defaults=False) is timm.optim.Muon:
            options["fallback_list"] = _names_outside_blocks(backbone)
        return timm.optim.create_optimizer_v2(
            backbone, opt=self.opt, lr=self.lr, weight_decay=self.weight_decay, **options
        )

    def _given_options(self) -> dict[str, Any]:
        info = timm.optim.get_optimizer_info(self.opt)
        fields = {
            "betas": (self.betas, info.has_betas),
            "eps": (self.eps, info.has_eps),
            "momentum": (self.momentum, info.has_momentum),
        }
        given = {name: value for name, (value, _) in fields.items() if value is not None}
        for name in given:
            if not fields[name][1]:
                taken = [legal for legal, (_, has) in fields.items() if has]
                raise UserError(
                    f"timm's {self.opt!r} takes no {name}, so optimizer.{name} would do nothing; remove it. Beside lr "
                    f"and weight_decay it takes: {', '.join(taken) or 'nothing'}."
                )
        return given


def _names_outside_blocks(backbone: nn.Module) -> list[str]:
    inside = {id(parameter) for block in repeated_blocks(backbone) for parameter in block.parameters()}
    return [name for name, parameter in backbone.named_parameters() if id(parameter) not in inside]


def check_optimizer(spec: OptimizerSpec, zero_stage: int) -> None:
    """Raise `UserError` for a spec that cannot be built, or that ZeRO `zero_stage` would make another optimizer of."""
    spec.build(_OneMatrix())
    if zero_stage and not is_elementwise(spec):
        name = getattr(spec, "opt", OPTIMIZERS.name_of(spec))
        raise UserError(
            f"Optimizer {name!r} looks at whole parameters, and ZeRO stage {zero_stage} hands it flat pieces of them, "
            f"on which it would silently do something else. Use --set deepspeed.zero_optimization.stage=0, or an "
            f"optimizer that treats each weight by itself, such as adamw, or timm's lion, adopt or nadamw."
        )
    if zero_stage == 3 and counts_in_groups(spec):
        name = getattr(spec, "opt", OPTIMIZERS.name_of(spec))
        raise UserError(
            f"Optimizer {name!r} counts its steps for all weights at once, and ZeRO stage 3 steps them piece by piece, "
            f"so it would count too many. Use --set deepspeed.zero_optimization.stage=2, or adamw, or timm's lion."
        )


def check_learned_weight(spec: OptimizerSpec) -> None:
    """Raise `UserError` for a spec that does not train the vector of a learned weighting, as one for matrices alone.

    Nothing is said of a spec that `check_optimizer` refuses.
    """
    network, vector = _OneMatrix().float(), Uncertainty(channels=8)
    network.add_module(ATTRIBUTE, vector)
    reason = "leaves it as it is"
    try:
        # Some, such as adopt, only look at the first gradient.
        _stepped(spec, network, updates=2)
    except (ValueError, RuntimeError, IndexError) as error:
        reason = f"refuses it ({error})"
    moved = vector.weight.detach()
    if not (moved.isfinite().all() and moved.any()):
        name = getattr(spec, "opt", OPTIMIZERS.name_of(spec))
        raise UserError(
            f"A learned weighting, such as edm2_uncertainty, trains a vector of its own beside the network, and "
            f"optimizer {name!r} {reason}. Choose an optimizer that trains every weight, such as adamw, or timm's lion "
            f"or muon, or a weighting that learns nothing: edm is edm2_uncertainty without what it learns."
        )


class _OneMatrix(nn.Module):
    """The smallest backbone that shows what an optimizer does with a matrix of one of its blocks."""

    # Sides above those from which factoring optimizers treat a parameter as a matrix.
    shape = (160, 144)

    def __init__(self) -> None:
        super().__init__()
        rows, columns = self.shape
        self.blocks = nn.ModuleList([nn.Linear(columns, rows, bias=False, dtype=torch.float64)])


def is_elementwise(spec: OptimizerSpec) -> bool:
    """Whether the optimizer treats each weight by itself: steps on a matrix equal steps on its flattened pieces."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, *_OneMatrix.shape, dtype=torch.float64, generator=generator)
    # AdamP and SGDP look at whole parameters only where the gradient is orthogonal to the weights.
    gradients[1] -= (gradients[1] * start).sum() / (start * start).sum() * start
    whole = _moved(spec, start, gradients)
    cuts = [each.flatten().split([9_000, 14_040]) for each in (start, *gradients)]
    pieces = torch.cat([_moved(spec, piece, gradients) for piece, *gradients in zip(*cuts, strict=True)])
    return torch.allclose(whole.flatten(), pieces, rtol=1e-9, atol=1e-9 * float(whole.abs().max()))


def optimizer_bytes(spec: OptimizerSpec) -> float:
    """Bytes of state that the optimizer keeps for each number of a fp32 matrix, as Adam keeps 8; no single numbers."""
    matrix = _OneMatrix().float()
    optimizer = _stepped(spec, matrix)
    values = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.nbytes for value in values if value.dim()) / prod(matrix.shape)


def counts_in_groups(spec: OptimizerSpec) -> bool:
    """Whether the optimizer counts its steps in the parameter group instead of in the state of each weight."""
    before, after = (
        [{**group, "params": None} for group in optimizer.param_groups]
        for optimizer in (spec.build(_OneMatrix()), _stepped(spec, _OneMatrix()))
    )
    return before != after


def _stepped(spec: OptimizerSpec, network: nn.Module, updates: int = 1) -> torch.optim.Optimizer:
    """The optimizer of `network` after updates with gradients of 1."""
    optimizer = spec.build(network)
    for _ in range(updates):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return optimizer


def _moved(spec: OptimizerSpec, start: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """The change of a parameter, `start` at first, after a step with each of `gradients`."""
    optimizer = spec.build(_OneMatrix())
    # As ZeRO does: the groups are made of whole parameters, whose pieces then take their place.
    parameter = nn.Parameter(start.clone())
    optimizer.param_groups[0]["params"] = [parameter]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach() - start

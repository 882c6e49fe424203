"""Everything that knows DeepSpeed, besides checkpoints: start-up, the optimizer step, and where the fp32 weights are.

bf16 runs through `torch_autocast` rather than DeepSpeed's `bf16` section: there the masters equal the fp32
initialisation, and the first step is exact at every stage.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.backbones.protocol import repeated_blocks
from latentdebias.data.batches import BatchPlan
from latentdebias.errors import UserError
from latentdebias.training.deepspeed_options import check_options, zero_stage
from latentdebias.training.optimizers import OptimizerSpec

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils import safe_get_full_fp32_param, set_z3_leaf_module

Precision = Literal["fp32", "bf16"]


def start_distributed() -> None:
    """Join the launcher's process group, or make one of a single process.

    Raises `UserError` under srun without MASTER_ADDR and MASTER_PORT.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        distributed.export_launcher_variables()
    except KeyError as missing:
        raise UserError(
            f"srun started {distributed.world_size()} processes, and {missing} is not set; export MASTER_ADDR (the "
            f"first host of `scontrol show hostnames`) and MASTER_PORT (a free port) before srun."
        ) from None
    # Else every CPU run compiles a shared-memory all-reduce first, which needs a C++ compiler; gloo does as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    cuda = torch.cuda.is_available()
    if cuda:
        # srun may show each process one device of its own.
        torch.cuda.set_device(distributed.local_rank() % torch.cuda.device_count())
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    if not cuda:
        # Ranks that share a machine's cores slow each other down many times over when each takes all of them.
        torch.set_num_threads(max(1, torch.get_num_threads() // distributed.local_world_size()))


def stop_distributed() -> None:
    """Leave the process group."""
    torch.distributed.destroy_process_group()


def check_deepspeed_options(raw: Mapping[str, Any]) -> None:
    """Raise `UserError` for a raw DeepSpeed option that DeepSpeed would not know or that this project sets."""
    check_options(raw, {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig})


def gather_whole_blocks(backbone: nn.Module) -> None:
    """Let ZeRO-3 gather and release the weights of a block at once, without hooks on the layers inside."""
    for block in repeated_blocks(backbone):
        set_z3_leaf_module(block, True)


class Engine:
    """A backbone under DeepSpeed with an optimizer of ours: called like the backbone, stepped like an optimizer."""

    def __init__(
        self,
        backbone: nn.Module,
        plan: BatchPlan,
        optimizer: OptimizerSpec,
        precision: Precision,
        grad_clip: float,
        raw: Mapping[str, Any],
    ) -> None:
        self.zero_stage = zero_stage(raw)
        self._grad_clip = grad_clip
        self._grad_norm: Tensor | float | None = None
        built = optimizer.build(backbone)
        self._lrs = [group["lr"] for group in built.param_groups]
        options = {
            "steps_per_print": 2**31,
            "zero_force_ds_cpu_optimizer": False,
            # `optimizers.check_optimizer` has tested it.
            "zero_allow_untested_optimizer": True,
            **raw,
            "train_batch_size": plan.batch_size,
            "train_micro_batch_size_per_gpu": plan.micro_batch_size,
            "gradient_accumulation_steps": plan.accumulation,
            "gradient_clipping": grad_clip if self.zero_stage else 0.0,
        }
        if precision == "bf16":
            options["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        self.deepspeed: Any = deepspeed.initialize(model=backbone, optimizer=built, config=options)[0]
        self.device: torch.device = torch.device(self.deepspeed.device)

    def __call__(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.deepspeed(z, t, y)

    def backward(self, loss: Tensor) -> None:
        self.deepspeed.backward(loss)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next `step` updates the weights; ask before it."""
        return self.deepspeed.is_gradient_accumulation_boundary()

    def step(self) -> None:
        """Update the weights at an accumulation boundary, count the micro-batch elsewhere."""
        if self.zero_stage == 0 and self.is_gradient_accumulation_boundary():
            # Stage 0 keeps no gradient norm of its own.
            bound = self._grad_clip or float("inf")
            self._grad_norm = nn.utils.clip_grad_norm_(self.deepspeed.module.parameters(), bound)
        self.deepspeed.step()

    def set_lr(self, share: float) -> None:
        """The learning rate of the next update, as a share of what each parameter group was built with."""
        for group, lr in zip(self.deepspeed.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = share * lr

    def lr(self) -> float:
        """The learning rate of the last update, in the first parameter group."""
        return float(self.deepspeed.optimizer.param_groups[0]["lr"])

    def grad_norm(self) -> float | None:
        """The global gradient norm of the last update, before clipping; a host sync."""
        norm = self.deepspeed.get_global_grad_norm() if self.zero_stage else self._grad_norm
        return None if norm is None else float(norm)

    def fp32_partitions(self) -> list[Tensor]:
        """This rank's share of the fp32 weights, as the optimizer updates it in place; all of them at stage 0."""
        optimizer = self.deepspeed.optimizer
        if self.zero_stage == 0:
            return [p.data for p in self.deepspeed.module.parameters() if p.requires_grad]
        if self.zero_stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return list(optimizer.single_partition_of_fp32_groups)

    @torch.no_grad()
    def gathered_weights(self) -> dict[str, Tensor]:
        """The whole fp32 state dict, on the CPU, on rank 0 (empty elsewhere); every rank must call it."""
        module, gathered = self.deepspeed.module, {}
        weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name in module.state_dict():
            full = self._gather(weights[name])
            if distributed.rank() == 0:
                gathered[name] = full.detach().to("cpu", copy=True)
        return gathered

    def _gather(self, weight: Tensor) -> Tensor:
        if self.zero_stage and weight.requires_grad:
            return safe_get_full_fp32_param(weight)
        with _whole(weight) if hasattr(weight, "ds_id") else contextlib.nullcontext():
            return weight.detach().clone()


def _whole(weight: Tensor) -> contextlib.AbstractContextManager[None]:
    """A parameter that ZeRO-3 partitions but does not train, gathered for the length of a with-block."""
    return deepspeed.zero.GatheredParameters([weight])

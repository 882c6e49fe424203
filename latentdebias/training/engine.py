"""Everything that knows DeepSpeed: start-up, the optimizer step, and where the fp32 weights are.

bf16 runs through `torch_autocast` rather than DeepSpeed's `bf16` section: there the masters equal the fp32
initialisation, and the first step is exact at every stage.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.backbones.blocks import repeated_blocks
from latentdebias.backbones.spec import Precision
from latentdebias.batches.plan import BatchPlan
from latentdebias.errors import UserError
from latentdebias.training.checkpoints.fragments import Fragment, of_flat_groups, of_partitioned_weights, whole_weights
from latentdebias.training.deepspeed_options import check_options, zero_stage
from latentdebias.training.optimizers import OptimizerSpec

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from deepspeed.utils import safe_get_full_fp32_param, set_z3_leaf_module

# What a parameter group holds of the config, besides the optimizer's own defaults.
OPTIONS = {"params", "lr", "initial_lr", "weight_decay"}


def start_distributed() -> None:
    """Join the launcher's process group, or make one of a single process.

    Raises `UserError` under srun or mpirun without MASTER_ADDR and MASTER_PORT.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        distributed.export_launcher_variables()
    except KeyError as missing:
        raise UserError(
            f"{distributed.world_size()} processes were started, and {missing} is not set: where they meet. Export "
            f"MASTER_ADDR (the host of rank 0; under Slurm the first of `scontrol show hostnames`) and MASTER_PORT (a "
            f"free port there); mpirun passes them on with -x MASTER_ADDR -x MASTER_PORT."
        ) from None
    # Else every CPU run compiles a shared-memory all-reduce first, which needs a C++ compiler; gloo does as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    cuda = torch.cuda.is_available()
    if cuda:
        # srun may show each process one device of its own; DeepSpeed takes the device of this number.
        os.environ["LOCAL_RANK"] = str(distributed.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(distributed.local_rank())
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
        self._grad_norm: Tensor | None = None
        self._trained = {name: weight for name, weight in backbone.named_parameters() if weight.requires_grad}
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
            if self.zero_stage == 3:
                # With small weights left gathered, an accumulated update after a resume differs in its last bits.
                options["zero_optimization"] = {
                    "stage3_param_persistence_threshold": 0,
                    **options["zero_optimization"],
                }
        self.deepspeed: Any = deepspeed.initialize(model=backbone, optimizer=built, config=options)[0]
        self.device: torch.device = torch.device(self.deepspeed.device)
        self._partitions = self._find_partitions()
        self._owners = self._partitions if self.zero_stage else list(self._trained.values())
        self._bad, self._skipped, self._skipped_in_a_row = torch.zeros(3, device=self.device).unbind()

    def __call__(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.deepspeed(z, t, y)

    def backward(self, loss: Tensor) -> None:
        self.deepspeed.backward(loss)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next `step` updates the weights; ask before it."""
        return self.deepspeed.is_gradient_accumulation_boundary()

    def step(self) -> None:
        """Update the weights at an accumulation boundary, count the micro-batch elsewhere.

        An update whose gradient norm is not finite is skipped on every rank, at every stage; `skipped` counts it.
        """
        boundary = self.is_gradient_accumulation_boundary()
        if boundary and self.zero_stage == 0:
            self._clip_or_skip()
        self.deepspeed.step()
        if boundary:
            if self.zero_stage:
                # Stages 1 to 3 look at the norm themselves, and leave the weights alone where it is not finite.
                self._bad.fill_(float(self.deepspeed.optimizer.overflow))
            self._skipped += self._bad
            self._skipped_in_a_row.add_(1).mul_(self._bad)

    def _clip_or_skip(self) -> None:
        """Stage 0 has no gradient norm of its own, and would take a step with NaN."""
        optimizer, parameters = self.deepspeed.optimizer, list(self.deepspeed.module.parameters())
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, self._grad_clip or float("inf"))
        self._bad = (~self._grad_norm.isfinite()).float()
        if optimizer.defaults.get("fused"):
            # A fused optimizer skips on the device, which saves a wait for it.
            optimizer.found_inf = self._bad
        elif self._bad.item():
            for parameter in parameters:
                parameter.grad = None

    def skipped(self) -> tuple[int, int]:
        """Updates skipped so far in this process, and how many of them in a row just now; a host sync."""
        return int(self._skipped.item()), int(self._skipped_in_a_row.item())

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
        return self._partitions

    def _find_partitions(self) -> list[Tensor]:
        optimizer = self.deepspeed.optimizer
        if self.zero_stage == 0:
            return [weight.data for weight in self._trained.values()]
        if self.zero_stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return list(optimizer.single_partition_of_fp32_groups)

    def fragments(self) -> list[Fragment]:
        """Which weights those partitions hold."""
        if self.zero_stage == 0:
            return whole_weights(self._trained)
        if self.zero_stage == 3:
            return of_partitioned_weights(self.deepspeed.optimizer, self._trained, distributed.rank())
        return of_flat_groups(self.deepspeed.optimizer, self._trained)

    def optimizer_state(self, partition: int) -> dict[str, Any]:
        """What the optimizer keeps of one partition, to read and to write."""
        state: dict[str, Any] = self._base_optimizer.state[self._owners[partition]]
        return state

    def count_device(self, partition: int) -> torch.device:
        """Where the optimizer wants its count of steps: a fused one beside the weights."""
        fused = self._base_optimizer.defaults.get("fused")
        return self.fp32_partitions()[partition].device if fused else torch.device("cpu")

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """What the optimizer counts a group, besides its options: numbers, and tensors as `{"tensor": number}`."""
        optimizer = self._base_optimizer
        own = [
            {key: group[key] for key in group.keys() - {*optimizer.defaults, *OPTIONS}} for group in _groups(optimizer)
        ]
        return [{key: _as_plain(value) for key, value in group.items() if _is_number(value)} for group in own]

    def restore_groups(self, saved: list[dict[str, Any]]) -> None:
        for group, counted in zip(_groups(self._base_optimizer), saved, strict=True):
            for key, value in counted.items():
                group[key] = torch.tensor(value["tensor"]) if isinstance(value, dict) else value

    @property
    def _base_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self.deepspeed.optimizer
        return optimizer.optimizer if self.zero_stage else optimizer

    def untrained(self) -> list[str]:
        """The names in the state dict that the optimizer does not update: frozen weights and buffers."""
        return [name for name in self.deepspeed.module.state_dict() if name not in self._trained]

    def untrained_weights(self) -> dict[str, Tensor]:
        """Those, whole, on the CPU; every rank must call it."""
        weights = self._weights()
        return {name: self._gather(weights[name]).to("cpu", copy=True) for name in self.untrained()}

    @torch.no_grad()
    def restore_untrained(self, saved: Mapping[str, Tensor]) -> None:
        weights = self._weights()
        for name, value in saved.items():
            with _whole(weights[name], written_by=0):
                weights[name].copy_(value)

    @torch.no_grad()
    def follow_partitions(self, read: Callable[[str, int], Tensor]) -> None:
        """After a write to the partitions: make the weights that the model computes with follow.

        `read(name, numel)` gives a whole weight, flattened; it must be what the partitions hold together.
        """
        optimizer = self.deepspeed.optimizer
        if self.zero_stage == 3:
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
            for i in range(len(optimizer.fp32_partitioned_groups_flat)):
                optimizer._reassign_or_swap_out_partitioned_parameters(i)
            optimizer.checkpoint_event_epilogue()
        elif self.zero_stage:
            for name, weight in self._trained.items():
                weight.view(-1).copy_(read(name, weight.numel()))

    @torch.no_grad()
    def gathered_weights(self) -> dict[str, Tensor]:
        """The whole fp32 state dict, on the CPU, on rank 0 (empty elsewhere); every rank must call it."""
        weights, gathered = self._weights(), {}
        for name in self.deepspeed.module.state_dict():
            full = self._gather(weights[name])
            if distributed.rank() == 0:
                gathered[name] = full.detach().to("cpu", copy=True)
        return gathered

    def _weights(self) -> dict[str, Tensor]:
        module = self.deepspeed.module
        return {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def _gather(self, weight: Tensor) -> Tensor:
        if self.zero_stage and weight.requires_grad:
            return safe_get_full_fp32_param(weight)
        with _whole(weight):
            return weight.detach().clone()


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return list(optimizer.param_groups)


def _is_number(value: Any) -> bool:
    return value.dim() == 0 if isinstance(value, Tensor) else type(value) in (int, float)


def _as_plain(value: Any) -> Any:
    return {"tensor": value.item()} if isinstance(value, Tensor) else value


def _whole(weight: Tensor, written_by: int | None = None) -> contextlib.AbstractContextManager[None]:
    """A weight that ZeRO-3 partitions but does not train, gathered for the length of a with-block."""
    if hasattr(weight, "ds_id"):
        return deepspeed.zero.GatheredParameters([weight], modifier_rank=written_by)
    return contextlib.nullcontext()


def deepspeed_estimate(stage: int, parameters: int, largest_layer: int, gpus: int) -> int | None:
    """Bytes of model states on a GPU by DeepSpeed's estimator, None for the stages 0 and 1, which it leaves out.

    It assumes bf16 weights and gradients beside fp32 ones, and knows of no averages.
    """
    # Its share of a GPU depends on the product of these alone.
    machines, on_each = 1, gpus
    if stage == 2:
        return estimate_zero2_model_states_mem_needs(parameters, on_each, machines, cpu_offload=False)[1]
    if stage == 3:
        return estimate_zero3_model_states_mem_needs(
            parameters, largest_layer, on_each, machines, cpu_offload=False, cpu_offload_params=False
        )[1]
    return None

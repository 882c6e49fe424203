"""Everything that knows DeepSpeed: start-up, forward, backward and the optimizer's step.

bf16 runs through DeepSpeed's `torch_autocast` section rather than its `bf16` section: with autocast the optimizer
starts from the fp32 initialisation instead of its bf16 rounding, and the first step is exact at every ZeRO stage.
"""

import contextlib
import datetime
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.backbones.blocks import repeated_blocks
from latentdebias.batches.plan import BatchPlan
from latentdebias.devices import default_device, keep_freed_memory, share_cores
from latentdebias.errors import UserError
from latentdebias.precision import Precision
from latentdebias.process_groups import PATIENCE, export_variables, set_timeout
from latentdebias.training.compiling import Compile
from latentdebias.training.deepspeed_internals import check_names, check_wrapped
from latentdebias.training.deepspeed_options import (
    check_compiled,
    check_options,
    check_version,
    reduce_bucket_size,
    zero_stage,
)
from latentdebias.training.optimizers import OptimizerSpec

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed

try:
    from deepspeed.accelerator import cuda_accelerator, get_accelerator
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    from deepspeed.utils import groups, safe_get_full_fp32_param, set_z3_leaf_module
except ImportError:
    check_names(deepspeed.__version__)
    raise

HANG_TIMEOUT = 1800.0
"""The default of `training.hang_timeout`: seconds without a step after which a run is taken to hang."""
SECONDS_FOR_THE_WATCHDOG = 60.0
"""How much later than the watchdog, which says where a rank waits, a collective of the training gives up."""


def training_device() -> torch.device:
    """The device that this process trains on: that of DeepSpeed's accelerator, which DS_ACCELERATOR=cpu overrides.

    Raises `UserError` where the machine has several GPUs and fewer than processes.
    """
    on_gpu = get_accelerator().device_name() == "cuda"
    return torch.device(default_device(distributed.local_rank()) if on_gpu else "cpu")


def start_distributed(hang_timeout: float = HANG_TIMEOUT) -> None:
    """Join the launcher's process group, or make one of a single process.

    A collective of the training gives up a minute after the `hang_timeout` seconds (0: never) of the watchdog. Raises
    `UserError` under srun or mpirun without MASTER_ADDR and MASTER_PORT, and where two processes would share a GPU.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    export_variables()
    # DeepSpeed reads the list for this one operation: a shared-memory all-reduce for CPUs, which needs a C++ compiler,
    # and gloo does as well. Unless it is set, every rank probes the compilers and GPUs for all operations.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    allow_gpu_names()
    share_cores()
    device = training_device()
    if device.type == "cuda":
        # DeepSpeed takes the device of this number, and asserts that Open MPI, where it is there, says the same. Each
        # process of srun or mpirun may be shown one GPU alone, which is number 0 to all of them.
        for name in {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"} & {"LOCAL_RANK", *os.environ}:
            os.environ[name] = str(device.index)
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    timeout = datetime.timedelta(seconds=hang_timeout + SECONDS_FOR_THE_WATCHDOG) if hang_timeout else PATIENCE
    try:
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False, timeout=timeout)
    except torch.distributed.DistBackendError as error:
        if "Duplicate GPU" not in str(error):
            raise
        raise UserError(
            f"Two of the {distributed.local_world_size()} processes on this machine have the same GPU, and NCCL needs "
            f"one for each; start as many processes as there are GPUs, or show each process one of its own."
        ) from None
    # DeepSpeed trains with a copy of the group, which it gives torch's own timeout.
    set_timeout(timeout, groups._get_data_parallel_group())


def stop_distributed() -> None:
    """Leave the process group."""
    torch.distributed.destroy_process_group()


def allow_gpu_names() -> None:
    """Let DeepSpeed start where CUDA_VISIBLE_DEVICES holds names such as GPU-8f2e... or MIG-41c7... and not numbers.

    With pynvml installed, DeepSpeed takes the entries for numbers to ask NVML for free memory; without it, it asks
    torch, which knows the GPU by either.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "0").replace(",", "").replace(" ", "").isdigit():
        cuda_accelerator.pynvml = None


def check_deepspeed_options(raw: Mapping[str, Any], compiled: Compile = "none") -> None:
    """Raise `UserError` where a run cannot train on the installed DeepSpeed with the raw options `raw`.

    That is a version with wrong gradients, or without what the engine uses of it; an option that DeepSpeed would not
    know or that a key of the run config sets; and, where the config asks for `compiled` blocks, options that give NaN
    with them.
    """
    check_version(deepspeed.__version__)
    check_names(deepspeed.__version__)
    check_options(raw, {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig})
    if compiled == "blocks":
        check_compiled(raw, deepspeed.__version__)


def why_not_compiled(raw: Mapping[str, Any]) -> str | None:
    """The message of `check_compiled` for the installed DeepSpeed and the raw options `raw`; None where it passes."""
    try:
        check_compiled(raw, deepspeed.__version__)
    except UserError as error:
        return str(error)
    return None


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
        self.trained = {name: weight for name, weight in backbone.named_parameters() if weight.requires_grad}
        """The weights that the optimizer updates, by name."""
        built = optimizer.build(backbone)
        self._lrs = [group["lr"] for group in built.param_groups]
        options = {
            "steps_per_print": 2**31,
            "zero_force_ds_cpu_optimizer": False,
            # `optimizers.check_optimizer` has tested it.
            "zero_allow_untested_optimizer": True,
            **raw,
            # Else its timer waits for the device before and after each micro-batch.
            "timers": {"throughput": {"enabled": False}},
            "train_batch_size": plan.batch_size,
            "train_micro_batch_size_per_gpu": plan.micro_batch_size,
            "gradient_accumulation_steps": plan.accumulation,
            "gradient_clipping": grad_clip if self.zero_stage else 0.0,
        }
        if self.zero_stage:
            trained = sum(weight.numel() for weight in self.trained.values())
            zero_options = {**raw["zero_optimization"], "reduce_bucket_size": reduce_bucket_size(raw, trained)}
            options["zero_optimization"] = zero_options
        if precision == "bf16":
            options["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
            if self.zero_stage == 3:
                # With small weights left gathered, an accumulated update after a resume differs in its last bits.
                options["zero_optimization"] = {
                    "stage3_param_persistence_threshold": 0,
                    **options["zero_optimization"],
                }
        self.deepspeed: Any = deepspeed.initialize(model=backbone, optimizer=built, config=options)[0]
        weight = next(iter(self.trained.values()))
        check_wrapped(deepspeed.__version__, self.zero_stage, self.deepspeed.optimizer, weight)
        self.device: torch.device = torch.device(self.deepspeed.device)
        self._bad, self._skipped, self._skipped_in_a_row = torch.zeros(3, device=self.device).unbind()

    def __call__(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self.zero_stage == 3:
            self._order_gathers()
        return self.deepspeed(z, t, y)

    def _order_gathers(self) -> None:
        """Let ZeRO-3 gather no weight before all writes to the weights are done: an update, a restore, an average.

        It gathers on a stream of its own where `overlap_comm` is on, and never makes that stream wait for the updates.
        """
        gathers = self.deepspeed.optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream
        # A CPU has no streams.
        if gathers is not None:
            gathers.wait_stream(get_accelerator().current_stream())

    @property
    def module(self) -> nn.Module:
        """The backbone that the engine trains."""
        module: nn.Module = self.deepspeed.module
        return module

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's mean loss; the mean over micro-batches and ranks is what `step` uses."""
        self.deepspeed.backward(loss)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next `step` updates the weights; ask before it."""
        return self.deepspeed.is_gradient_accumulation_boundary()

    def step(self) -> None:
        """Update the weights if this was the last micro-batch of the batch, else only count the micro-batch.

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
        """Clip the gradients at stage 0, or drop them where their norm is not finite: DeepSpeed does neither there."""
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
        """Updates skipped so far in this process, and how many of the last ones in a row; waits for the device."""
        return int(self._skipped.item()), int(self._skipped_in_a_row.item())

    def set_lr(self, share: float) -> None:
        """Let the next update take `share` of the learning rate that each parameter group was built with."""
        for group, lr in zip(self.deepspeed.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = share * lr

    def lr(self) -> float:
        """The learning rate of the last update, in the first parameter group."""
        return float(self.deepspeed.optimizer.param_groups[0]["lr"])

    def grad_norm(self) -> float | None:
        """The global gradient norm of the last update, before clipping; waits for the device."""
        norm = self.deepspeed.get_global_grad_norm() if self.zero_stage else self._grad_norm
        return None if norm is None else float(norm)

    @property
    def base_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that was built from `OptimizerSpec`, under whatever DeepSpeed put around it."""
        optimizer: Any = self.deepspeed.optimizer
        return optimizer.optimizer if self.zero_stage else optimizer


def gathered_master(weight: Tensor) -> Tensor:
    """The whole fp32 copy of a trained weight at the stages 1 to 3; every rank must call it."""
    return safe_get_full_fp32_param(weight)


def gathered_weight(weight: Tensor, written_by: int | None = None) -> contextlib.AbstractContextManager[None]:
    """A with-block in which `weight` is whole, though ZeRO-3 cuts it up; every rank must enter it.

    What the rank `written_by` writes to it there, all ranks get.
    """
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

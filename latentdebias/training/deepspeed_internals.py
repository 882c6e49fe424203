"""What the engine uses of DeepSpeed, most of it undocumented, in one list; and checks that the installed one has it."""

import operator
import pkgutil
from typing import Any

from latentdebias.errors import UserError

NAMES = (
    "deepspeed.accelerator.cuda_accelerator",
    "deepspeed.accelerator.get_accelerator",
    "deepspeed.comm.config.CommsLoggerConfig",
    "deepspeed.init_distributed",
    "deepspeed.initialize",
    "deepspeed.ops",
    "deepspeed.runtime.zero.config.DeepSpeedZeroConfig",
    "deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs",
    "deepspeed.runtime.zero.stage_1_and_2.estimate_zero2_model_states_mem_needs",
    "deepspeed.utils.groups",
    "deepspeed.utils.groups._get_data_parallel_group",
    "deepspeed.utils.safe_get_full_fp32_param",
    "deepspeed.utils.set_z3_leaf_module",
    "deepspeed.zero.GatheredParameters",
)
"""Modules, functions and classes."""
_FLAT = ("single_partition_of_fp32_groups", "bit16_groups", "overflow", "optimizer")
OF_OPTIMIZER = {
    0: (),
    1: _FLAT,
    2: _FLAT,
    3: (
        "fp32_partitioned_groups_flat",
        "grad_position",
        "get_param_id",
        "persistent_parameters",
        "_reassign_or_swap_out_partitioned_parameters",
        "checkpoint_event_epilogue",
        "parameter_offload._DeepSpeedZeRoOffload__allgather_stream",
        "overflow",
        "optimizer",
    ),
}
"""ZeRO stage -> attributes of the optimizer that DeepSpeed wraps around ours, from which checkpoints are made."""
OF_WEIGHT = {0: (), 1: ("_hp_mapping",), 2: ("_hp_mapping",), 3: ("ds_id", "ds_shape")}
"""ZeRO stage -> attributes that DeepSpeed gives to a trained weight."""


def check_names(version: str) -> None:
    """Raise `UserError` where the installed DeepSpeed, of the given `version`, lacks any of `NAMES`."""
    for name in NAMES:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            raise _lacking(version, name) from None


def check_wrapped(version: str, stage: int, optimizer: Any, weight: Any) -> None:
    """Raise `UserError` where DeepSpeed's `optimizer` at a ZeRO `stage`, or a trained `weight`, lacks an attribute."""
    for thing, names in ((optimizer, OF_OPTIMIZER[stage]), (weight, OF_WEIGHT[stage])):
        for name in names:
            try:
                operator.attrgetter(name)(thing)
            except AttributeError:
                raise _lacking(version, f"{type(thing).__name__}.{name} at ZeRO stage {stage}") from None


def _lacking(version: str, name: str) -> UserError:
    return UserError(
        f"DeepSpeed {version} is installed, which has no {name}; the engine is built on it. Install a version that "
        f"this latentdebias was written with: pip install 'deepspeed>=0.18.3,<0.20'"
    )

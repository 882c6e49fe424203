"""Checks of DeepSpeed's version and of a run's raw options, whose mistyped sections DeepSpeed ignores in silence."""

import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pydantic
import torch
from packaging.version import Version
from torch import nn

from latentdebias.errors import UserError, legal_choices
from latentdebias.precision import Precision

OLDEST = Version("0.18.3")
# The first release whose reduction waits for every stream that wrote gradients (DeepSpeed pull request 8080).
OLDEST_COMPILED_OVERLAP = Version("0.19.3")

BUCKET_SIZE = 50_000_000
"""Numbers that ZeRO reduces at once: 200 MB in fp32, a tenth of DeepSpeed's default (its speed was not measured)."""

# Options of DeepSpeed that follow from keys of the run config, and from which.
OWNED = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_size",
    "gradient_clipping": "training.grad_clip",
    "optimizer": "optimizer",
    "scheduler": "lr_schedule",
    "zero_allow_untested_optimizer": "optimizer",
    "zero_force_ds_cpu_optimizer": "optimizer",
    "activation_checkpointing": "training.activation_checkpointing",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
    "checkpoint": "training.checkpoint_every",
    "tensorboard": "training.log_every",
    "timers": "training.log_every, for the log has the speed: its timers wait for the GPU at each micro-batch",
}


class FlopsProfiler(pydantic.BaseModel, extra="forbid"):
    """DeepSpeed's `flops_profiler` section."""

    enabled: bool = False
    recompute_fwd_factor: float = 0.0
    profile_step: int = 1
    module_depth: int = -1
    top_modules: int = 1
    detailed: bool = True
    output_file: str | None = None


class RawOptions(pydantic.BaseModel, extra="forbid"):
    """The top-level options that a run config may pass to DeepSpeed, besides the sections that it models itself."""

    flops_profiler: FlopsProfiler | None = None
    communication_data_type: Literal["fp16", "bf16", "fp32"] | None = None
    seq_parallel_communication_data_type: Literal["fp16", "bf16", "fp32"] | None = None
    gradient_allreduce_op: Literal["mean", "sum"] | None = None
    gradient_predivide_factor: float = 1.0
    prescale_gradients: bool = False
    sparse_gradients: bool = False
    disable_allgather: bool = False
    dump_state: bool = False
    memory_breakdown: bool = False
    wall_clock_breakdown: bool = False
    steps_per_print: int | None = None


def check_options(raw: Mapping[str, Any], sections: Mapping[str, type[pydantic.BaseModel]]) -> None:
    """Raise `UserError` for an unknown option at any level, a bad value, or an option that has a key of its own.

    `sections` holds DeepSpeed's own models of further sections, `zero_optimization` among them.
    """
    for key in raw:
        if key in OWNED:
            raise UserError(f"deepspeed.{key} is set by this project's own option: use {OWNED[key]} instead.")
    fields: dict[str, Any] = {name: (section, None) for name, section in sections.items()}
    _check("deepspeed", raw, pydantic.create_model("Options", __base__=RawOptions, **fields))
    zero = raw.get("zero_optimization") or {}
    if zero.get("stage", 0) not in (0, 1, 2, 3):
        raise UserError(f"deepspeed.zero_optimization.stage is {zero['stage']!r}; choose 0, 1, 2 or 3.")
    for offload in ("offload_optimizer", "offload_param"):
        if (zero.get(offload) or {}).get("device") == "nvme":
            raise UserError(
                f"deepspeed.zero_optimization.{offload}.device is 'nvme', where the EMA and the checks of the weights "
                f"cannot reach the weights; use 'cpu' or 'none'."
            )


def check_version(version: str) -> None:
    """Raise `UserError` for a DeepSpeed `version` that computes wrong ZeRO-2 gradients."""
    if Version(version) < OLDEST:
        raise UserError(
            f"DeepSpeed {version} is installed, and {OLDEST} or newer is needed: the gradients of 0.17.6 to 0.18.2 are "
            f"wrong at ZeRO stage 2 (DeepSpeed issue 7718). Install it with: pip install 'deepspeed>={OLDEST}'"
        )


def check_compiled(raw: Mapping[str, Any], version: str) -> None:
    """Raise `UserError` where compiled blocks would train to NaN with the options `raw` under DeepSpeed `version`."""
    overlap = (raw.get("zero_optimization") or {}).get("overlap_comm")
    if overlap and zero_stage(raw) in (1, 2) and Version(version) < OLDEST_COMPILED_OVERLAP:
        raise UserError(
            f"training.compile=blocks with deepspeed.zero_optimization.overlap_comm at ZeRO stage {zero_stage(raw)} "
            f"gives NaN under DeepSpeed {version}, which reduces gradients before all of them are there (its issue "
            f"8061). Use --set deepspeed.zero_optimization.overlap_comm=false, or --set training.compile=none, or: "
            f"pip install 'deepspeed>={OLDEST_COMPILED_OVERLAP}'"
        )


def zero_stage(raw: Mapping[str, Any]) -> int:
    """The ZeRO stage that the options ask for, 0 where they ask for none."""
    return int((raw.get("zero_optimization") or {}).get("stage", 0))


def reduce_bucket_size(raw: Mapping[str, Any], parameters: int) -> int:
    """The size of DeepSpeed's buckets of gradients in numbers: `BUCKET_SIZE` or what the options ask for, capped.

    It is at most `parameters`, for DeepSpeed allocates whole buckets at the stages 1 to 3, however small the network.
    """
    asked = (raw.get("zero_optimization") or {}).get("reduce_bucket_size", BUCKET_SIZE)
    return min(int(asked), parameters)


def communication_dtypes(backbone: nn.Module, precision: Precision) -> set[torch.dtype]:
    """The dtypes in which DeepSpeed sends gradients: in bf16 runs, bf16 for those of the layers that autocast casts."""
    weights = [
        (type(module), parameter)
        for module in backbone.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]
    cast = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if precision == "bf16" else ()
    return {torch.bfloat16 if module in cast else weight.dtype for module, weight in weights}


def _check(where: str, values: Any, section: type[pydantic.BaseModel]) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of options, and is {values!r}.")
    legal = {field.alias or name: field for name, field in section.model_fields.items()}
    for key, value in values.items():
        if key not in legal:
            raise UserError(f"Unknown key '{where}.{key}'. {legal_choices(key, legal)}")
        for inner in _models_in(legal[key].annotation):
            if value is not None:
                _check(f"{where}.{key}", value, inner)
    try:
        section(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise UserError(f"Bad value {first['input']!r} for {place!r}: {first['msg']}.") from None


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            yield candidate

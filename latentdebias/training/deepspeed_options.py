"""The raw DeepSpeed options of a run, checked key by key, for DeepSpeed passes over a mistyped section in silence."""

from collections.abc import Mapping
from typing import Any

import pydantic

from latentdebias.errors import UserError, legal_choices

# What the run config sets in one place of its own, and where.
OWNED = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_size",
    "gradient_clipping": "training.grad_clip",
    "optimizer": "optimizer",
    "scheduler": "optimizer.warmup_steps",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
}
LEGAL = {
    "activation_checkpointing",
    "aio",
    "autotuning",
    "checkpoint",
    "comet",
    "comms_logger",
    "communication_data_type",
    "compile",
    "compression_training",
    "csv_monitor",
    "data_efficiency",
    "data_types",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "elasticity",
    "flops_profiler",
    "gradient_allreduce_op",
    "gradient_predivide_factor",
    "hybrid_engine",
    "log_level",
    "memory_breakdown",
    "monitor_config",
    "prescale_gradients",
    "seq_parallel_communication_data_type",
    "sparse_gradients",
    "steps_per_print",
    "tensor_parallel",
    "tensorboard",
    "timers",
    "wall_clock_breakdown",
    "wandb",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
}


def check_options(raw: Mapping[str, Any], zero_options: type[pydantic.BaseModel]) -> None:
    """Raise `UserError` for an unknown option, for one that the run config owns, and for a bad ZeRO section."""
    for key in raw:
        if key in OWNED:
            raise UserError(f"deepspeed.{key} is set by this project's own option: use {OWNED[key]} instead.")
        if key not in LEGAL:
            raise UserError(f"Unknown key 'deepspeed.{key}'. {legal_choices(key, LEGAL)}")
    _check_section("deepspeed.zero_optimization", raw.get("zero_optimization", {}), zero_options)


def zero_stage(raw: Mapping[str, Any]) -> int:
    """The ZeRO stage that the options ask for, 0 where they ask for none."""
    return int(raw.get("zero_optimization", {}).get("stage", 0))


def _check_section(where: str, values: Any, section: type[pydantic.BaseModel]) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of options, and is {values!r}.")
    legal = {field.alias or name for name, field in section.model_fields.items()}
    for key in values:
        if key not in legal:
            raise UserError(f"Unknown key '{where}.{key}'. {legal_choices(key, legal)}")
    try:
        section(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise UserError(f"Bad value {first['input']!r} for {place!r}: {first['msg']}.") from None

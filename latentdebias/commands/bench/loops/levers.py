"""The levers of speed: each is a named change of the trainer, measured alone beside the trainer as it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Lever:
    """Changes of keys of the run config, or a block in which the model is built and trained, or both."""

    changes: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def _attention(backend: SDPBackend) -> Callable[[], AbstractContextManager[object]]:
    return lambda: sdpa_kernel(backend)


LEVERS: dict[str, Lever] = {
    "compile_blocks": Lever(("training.compile=blocks",)),
    "no_compile": Lever(("training.compile=none",)),
    "device_noise": Lever(("data.noise=device",)),
    "routing": Lever(("model.routing=0.5",)),
    "checkpoint_blocks": Lever(("training.activation_checkpointing=blocks",)),
    "cudnn_attention": Lever(around=_attention(SDPBackend.CUDNN_ATTENTION)),
    "flash_attention": Lever(around=_attention(SDPBackend.FLASH_ATTENTION)),
    "math_attention": Lever(around=_attention(SDPBackend.MATH)),
    "unfused_adamw": Lever(("optimizer={name: timm, opt: adamw, lr: 1.0e-4}",)),
    "zero_1": Lever(("deepspeed.zero_optimization.stage=1",)),
    "zero_1_buckets_of_500m": Lever(
        ("deepspeed.zero_optimization.stage=1", "deepspeed.zero_optimization.reduce_bucket_size=500000000")
    ),
    "zero_2": Lever(("deepspeed.zero_optimization.stage=2",)),
}
"""A lever is one line here."""

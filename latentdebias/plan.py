"""What a run will cost, before there is a GPU or a shard: operations, memory, bytes and days."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.activations import ActivationBytes, activation_bytes
from latentdebias.backbones.flops import ForwardFlops, forward_flops
from latentdebias.batches.plan import plan_batches
from latentdebias.config import RunConfig
from latentdebias.prepare import Shapes, meta_backbone, open_shards, stated_shapes
from latentdebias.training.engine import check_deepspeed_options, deepspeed_estimate

FP32 = 4
ADAM_MOMENTS = 2
TAR_BLOCK = 512
NPY_HEADER = 128
LABEL_AND_SOURCE = 4 * TAR_BLOCK


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one GPU at a ZeRO stage, besides activations.

    `optimizer` is all that the stages 1 to 3 divide first: fp32 masters, Adam's moments and the averages.
    `buffers` are those of communication (stages 1, 2), or the gathered weights (stage 3), at their most.
    `deepspeed` is what DeepSpeed's own estimator has, None where it has none.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    deepspeed: int | None

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True)
class Plan:
    """A run on `gpus` GPUs; `micro_batch_size` is one GPU's."""

    shapes: Shapes
    gpus: int
    micro_batch_size: int
    parameters: int
    flops: ForwardFlops | None
    activations: ActivationBytes
    states: list[StateBytes]
    bytes_per_sample: int


def plan_run(config: RunConfig, gpus: int) -> Plan:
    """Raises `UserError` where the batch cannot be dealt to `gpus`, or neither config nor shards state the shapes."""
    shapes = stated_shapes(config) or _shapes_of_shards(config)
    training, spec = config.training, BACKBONES.build(config.model).without_pretrained()
    dealt = plan_batches(training.seed, training.batch_size, training.micro_batch_size, 0, gpus)
    check_deepspeed_options(config.deepspeed)
    backbone = meta_backbone(config, shapes)
    return Plan(
        shapes=shapes,
        gpus=gpus,
        micro_batch_size=dealt.micro_batch_size,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        flops=forward_flops(spec, shapes.latent_shape, shapes.num_classes),
        activations=activation_bytes(
            spec, shapes.latent_shape, shapes.num_classes, dealt.micro_batch_size, training.precision
        ),
        states=[state_bytes(backbone, stage, gpus, len(config.ema.names()), config.deepspeed) for stage in range(4)],
        bytes_per_sample=sample_bytes(shapes.latent_shape, 2 if config.data.flip else 1),
    )


def _shapes_of_shards(config: RunConfig) -> Shapes:
    shards = open_shards(config)
    return Shapes(shards.latent_shape, shards.num_classes)


def state_bytes(backbone: nn.Module, stage: int, gpus: int, averages: int, raw: Mapping[str, Any]) -> StateBytes:
    """Model states for fp32 weights with AdamW and `averages` of them, none offloaded, shared out as in ZeRO (1).

    (1) Rajbhandari et al. 2020 (arXiv:1910.02054), figure 1, with 4 bytes for weights and gradients in place of 2.
    Stage 0 steps the weights themselves, so it has no masters. `raw` are the run's raw DeepSpeed options.
    """
    count = sum(parameter.numel() for parameter in backbone.parameters())
    whole = FP32 * count
    masters = 1 if stage else 0
    largest = max(sum(each.numel() for each in module.parameters(recurse=False)) for module in backbone.modules())
    return StateBytes(
        stage=stage,
        weights=whole // (gpus if stage == 3 else 1),
        # Stage 1 keeps all gradients until the update, and then has its share of them again in fp32.
        gradients={0: whole, 1: whole + whole // gpus, 2: whole // gpus, 3: whole // gpus}[stage],
        optimizer=(masters + ADAM_MOMENTS + averages) * whole // (gpus if stage else 1),
        buffers=_buffer_bytes(stage, count, raw.get("zero_optimization") or {}),
        deepspeed=deepspeed_estimate(stage, count, largest, gpus),
    )


def _buffer_bytes(stage: int, count: int, zero: Mapping[str, Any]) -> int:
    """Buckets that gradients are reduced in, two where communication overlaps; at stage 3 the weights in use."""
    if stage == 0:
        return 0
    if stage == 3:
        return FP32 * min(count, int(zero.get("stage3_max_live_parameters", 1e9)))
    return FP32 * int(zero.get("reduce_bucket_size", 5e8)) * (2 if zero.get("overlap_comm") else 1)


def sample_bytes(latent_shape: tuple[int, int, int], views: int) -> int:
    """Bytes of a sample in a shard: posterior moments `(2C, h, w)` in fp16 for each view, the label and the source."""
    channels, height, width = latent_shape
    array = NPY_HEADER + 2 * 2 * channels * height * width
    view = TAR_BLOCK + -(-array // TAR_BLOCK) * TAR_BLOCK
    return views * view + LABEL_AND_SOURCE


def training_days(flops_per_image: int, images: int, flops_per_second: float) -> float:
    return flops_per_image * images / flops_per_second / 86_400

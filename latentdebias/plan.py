"""What a run will cost in operations, memory, disk space and days; neither a GPU nor shards are needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from latentdebias.autoencoders import Posterior, StoredDtype, stored_form
from latentdebias.backbones.activations import ActivationBytes, activation_bytes
from latentdebias.backbones.flops import ForwardFlops, forward_flops
from latentdebias.backbones.sized import SizedBackbone
from latentdebias.batches.options import DataOptions
from latentdebias.batches.plan import plan_batches
from latentdebias.config import RunConfig
from latentdebias.prepare import network_of, open_shards, stated_network
from latentdebias.shards.format import MANIFEST, Manifest, bytes_per_sample
from latentdebias.training.engine import check_deepspeed_options, deepspeed_estimate

FP32 = 4
ADAM_MOMENTS = 2


@dataclass(frozen=True)
class DataSize:
    """The size of a run's shards; `bytes_from` and `images_from` say in words where the two numbers were found.

    `bytes_per_image` includes the mirrored view, the label and the file name of an image. `images` is None where
    neither the shards nor the config state it.
    """

    bytes_per_image: int
    bytes_from: str
    images: int | None
    images_from: str


@dataclass(frozen=True)
class StateBytes:
    """Bytes of weights, gradients and optimizer states on one GPU at a ZeRO stage; activations are not included.

    `optimizer` is fp32 master weights, Adam's moments and the averages of the weights, divided from stage 1 on.
    `buffers` are the gradient buckets of communication (stages 1, 2), or the gathered weights (stage 3).
    `deepspeed` is the estimate by DeepSpeed's own function, None at stages 0 and 1, which it does not cover.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    deepspeed: int | None

    @property
    def total(self) -> int:
        """Weights, gradients, optimizer and buffers together."""
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True)
class Plan:
    """What a run on `gpus` GPUs will cost; `micro_batch_size` is that of one GPU.

    `flops` and `activations` are None for a backbone whose forward reads values of its tensors, as with `.item()`:
    both are counted on tensors without values. `states` has one entry for each ZeRO stage, 0 to 3.
    """

    network: SizedBackbone
    gpus: int
    micro_batch_size: int
    parameters: int
    flops: ForwardFlops | None
    activations: ActivationBytes | None
    states: list[StateBytes]
    data: DataSize


def plan_run(config: RunConfig, gpus: int) -> Plan:
    """The cost of a run, from its config, and from its shards where they exist.

    Raises `UserError` where the batch cannot be divided among `gpus` GPUs, where neither config nor shards state the
    shape of the latents and the number of classes, or where the shards differ from what the config states.
    """
    manifest = _manifest(config)
    network = stated_network(config) or _network_of_set(config, manifest)
    training, spec = config.training, network.untrained().spec
    batches = plan_batches(training.seed, training.batch_size, training.micro_batch_size, 0, gpus)
    check_deepspeed_options(config.deepspeed)
    backbone = network.on_meta()
    return Plan(
        network=network,
        gpus=gpus,
        micro_batch_size=batches.micro_batch_size,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        flops=forward_flops(spec, network.latent_shape, network.num_classes),
        activations=activation_bytes(
            spec, network.latent_shape, network.num_classes, batches.micro_batch_size, training.precision
        ),
        states=[state_bytes(backbone, stage, gpus, len(config.ema.names()), config.deepspeed) for stage in range(4)],
        data=_stated_size(config.data, network) if manifest is None else _size_of_set(config.data, manifest),
    )


def _manifest(config: RunConfig) -> Manifest | None:
    """The manifest of the run's shards; None where the shards are at a URL, or not made yet."""
    return open_shards(config).manifest if Path(config.data.shards, MANIFEST).is_file() else None


def _network_of_set(config: RunConfig, manifest: Manifest | None) -> SizedBackbone:
    manifest = manifest or open_shards(config).manifest
    return network_of(config, manifest.latent_shape, manifest.num_classes)


def _size_of_set(data: DataOptions, manifest: Manifest) -> DataSize:
    return DataSize(
        bytes_per_image=manifest.bytes_per_sample,
        bytes_from=f"{_form(manifest.posterior, manifest.dtype, manifest.flips)} (the set in {data.shards})",
        images=manifest.count,
        images_from=f"the set in {data.shards}",
    )


def _stated_size(data: DataOptions, network: SizedBackbone) -> DataSize:
    known = None if data.vae is None else stored_form(data.vae)
    posterior, dtype = known or ("gaussian", "float16")
    if known:
        source = f"data.vae {data.vae!r}"
    elif data.vae is None:
        source = "assumed: the config names no data.vae"
    else:
        source = f"assumed: data.vae {data.vae!r} is not on this machine"
    return DataSize(
        bytes_per_image=bytes_per_sample(
            network.latent_shape, posterior, dtype, 2 if data.flip else 1, network.num_classes
        ),
        bytes_from=f"{_form(posterior, dtype, data.flip)} ({source})",
        images=data.num_images,
        images_from="data.num_images of the config",
    )


def _form(posterior: Posterior, dtype: StoredDtype, flips: bool) -> str:
    arrays = {"gaussian": "mean and log-variance", "deterministic": "the latent itself"}[posterior]
    return f"{arrays} in {dtype}{', mirrored view included' if flips else ''}"


def state_bytes(backbone: nn.Module, stage: int, gpus: int, averages: int, raw: Mapping[str, Any]) -> StateBytes:
    """Bytes of model states for fp32 weights under AdamW with `averages` averages of the weights, none offloaded.

    ZeRO: Rajbhandari et al. 2020 (arXiv:1910.02054), figure 1, with 4 bytes for weights and gradients in place of 2.
    Stage 0 updates the weights themselves, so it has no master copy. `raw` is the `deepspeed` section of the config.
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
    """Bytes of buffers: gradient buckets at stages 1 and 2, two if communication overlaps; gathered weights at 3."""
    if stage == 0:
        return 0
    if stage == 3:
        return FP32 * min(count, int(zero.get("stage3_max_live_parameters", 1e9)))
    return FP32 * int(zero.get("reduce_bucket_size", 5e8)) * (2 if zero.get("overlap_comm") else 1)


def training_days(flops_per_image: int, images: int, flops_per_second: float) -> float:
    """Days that training on `images` images takes at `flops_per_second`; `flops_per_image` includes the backward."""
    return flops_per_image * images / flops_per_second / 86_400

"""What a run will cost in operations, memory, disk space and days; neither a GPU nor shards are needed."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from latentdebias.autoencoders import Posterior, StoredDtype, stored_form
from latentdebias.backbones.activations import ActivationBytes, activation_bytes
from latentdebias.backbones.flops import ForwardFlops, forward_flops
from latentdebias.backbones.sized import SizedBackbone
from latentdebias.batches.options import DataOptions
from latentdebias.batches.plan import plan_batches
from latentdebias.config import RunConfig
from latentdebias.prepare import checked_objective, network_of, open_shards, stated_network
from latentdebias.shards.format import MANIFEST, Manifest, bytes_per_sample
from latentdebias.training.deepspeed_options import communication_dtypes, reduce_bucket_size
from latentdebias.training.engine import check_deepspeed_options, deepspeed_estimate
from latentdebias.training.optimizers import optimizer_bytes

FP32 = 4


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
    """Bytes of weights, gradients and optimizer states on one GPU at a ZeRO stage, and on its host.

    `optimizer` is fp32 master weights, the optimizer's state and the averages of the weights, divided from stage 1 on.
    `gradients` and `buffers` are there in the backward beside the activations: the gradients that are kept, and
    DeepSpeed's buckets (stages 1 to 3) and gathered weights (stage 3). `update` takes the place of the gradients, the
    buffers and the activations once the backward is done. `host` is memory of the CPU: a copy of the rank's share of a
    checkpoint, and the whole weights, which each rank builds there and rank 0 exports from there. `deepspeed` is the
    estimate by DeepSpeed's own function, None at stages 0 and 1, which it does not cover.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    update: int
    host: int
    deepspeed: int | None

    def peak(self, activations: int) -> int:
        """The most that is held at once, where the forward keeps `activations` for the backward."""
        return self.weights + self.optimizer + max(self.gradients + self.buffers + activations, self.update)


@dataclass(frozen=True)
class Plan:
    """What a run on `gpus` GPUs will cost; `micro_batch_size` is that of one GPU.

    `flops` and `activations` are None for a backbone whose forward reads values of its tensors, as with `.item()`:
    both are counted on tensors without values. `states` has one entry for each ZeRO stage, 0 to 3. `notes` says what a
    user should know of the training objective.
    """

    network: SizedBackbone
    gpus: int
    micro_batch_size: int
    parameters: int
    flops: ForwardFlops | None
    activations: ActivationBytes | None
    states: list[StateBytes]
    data: DataSize
    notes: list[str]


def plan_run(config: RunConfig, gpus: int) -> Plan:
    """The cost of a run, from its config, and from its shards where they exist.

    Raises `UserError` where the batch cannot be divided among `gpus` GPUs, where neither config nor shards state the
    shape of the latents and the number of classes, where the shards differ from what the config states, or where the
    training objective cannot be trained so.
    """
    manifest = _manifest(config)
    network = stated_network(config) or _network_of_set(config, manifest)
    training, spec = config.training, network.untrained().spec
    batches = plan_batches(training.seed, training.batch_size, training.micro_batch_size, 0, gpus)
    check_deepspeed_options(config.deepspeed)
    objective = checked_objective(config, batches.micro_batch_size)
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
        states=[state_bytes(backbone, stage, gpus, config) for stage in range(4)],
        data=_stated_size(config.data, network) if manifest is None else _size_of_set(config.data, manifest),
        notes=objective.notes(),
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


def state_bytes(backbone: nn.Module, stage: int, gpus: int, config: RunConfig) -> StateBytes:
    """Bytes of model states for fp32 weights under the optimizer and the averages of the config, none offloaded.

    ZeRO: Rajbhandari et al. 2020 (arXiv:1910.02054), figure 1, with 4 bytes for weights and gradients in place of 2;
    buckets and copies as DeepSpeed 0.19.8 allocates them (runtime/zero/stage_1_and_2.py, stage3.py, engine.py).
    Stage 0 updates the weights themselves, so it has no master copy.
    """
    count = sum(parameter.numel() for parameter in backbone.parameters())
    whole, share = FP32 * count, FP32 * count // gpus
    zero = config.deepspeed.get("zero_optimization") or {}
    states = optimizer_bytes(config.optimizer) / FP32 + len(config.ema.names())
    largest = max(sum(each.numel() for each in module.parameters(recurse=False)) for module in backbone.modules())
    buckets = bucket_bytes(backbone, stage, config)
    # On one GPU the gathered weights are the weights.
    gathered = FP32 * min(count, int(zero.get("stage3_max_live_parameters", 1e9))) if gpus > 1 else 0
    return StateBytes(
        stage=stage,
        weights=share if stage == 3 else whole,
        gradients=whole if stage < 2 else share,
        optimizer=int((states + (1 if stage else 0)) * (share if stage else whole)),
        # Stage 3 copies a bucket into the order of the ranks.
        buffers={0: 0, 1: buckets, 2: buckets, 3: 2 * buckets + gathered}[stage],
        # Stage 0 reduces copies of its gradients, 500 million numbers at a time. From stage 1 on, the update has the
        # share of the gradients twice; so has stage 2 at the end of each accumulated backward, beside its buckets.
        update={
            0: whole + min(whole, FP32 * 500_000_000),
            1: 2 * share,
            2: 2 * share + buckets,
            3: 2 * share + buckets,
        }[stage],
        host=int((1 + states) * share) + whole,
        deepspeed=deepspeed_estimate(stage, count, largest, gpus),
    )


def bucket_bytes(backbone: nn.Module, stage: int, config: RunConfig) -> int:
    """Bytes of DeepSpeed's buckets of gradients: at the stages 1 to 3 one for each dtype in which gradients are sent.

    At the stages 1 and 2 all are fp32, and there are two of each where communication overlaps with the backward.
    """
    zero = config.deepspeed.get("zero_optimization") or {}
    if stage == 0 or not zero.get("contiguous_gradients", True):
        return 0
    trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    dtypes = communication_dtypes(backbone, config.training.precision)
    if stage == 3:
        each = sum(dtype.itemsize for dtype in dtypes)
    else:
        each = FP32 * len(dtypes) * (2 if zero.get("overlap_comm") else 1)
    return each * reduce_bucket_size(config.deepspeed, trained)


def training_days(flops_per_image: int, images: int, flops_per_second: float) -> float:
    """Days that training on `images` images takes at `flops_per_second`; `flops_per_image` includes the backward."""
    return flops_per_image * images / flops_per_second / 86_400

"""`latentdebias encode`: encode images into latent shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from latentdebias import distributed
from latentdebias.autoencoders import DEFAULT_AUTOENCODER, load_autoencoder
from latentdebias.commands.terminal import print_next
from latentdebias.devices import open_device, share_cores
from latentdebias.errors import UserError, command
from latentdebias.files import parse_yaml
from latentdebias.images.find import find_images
from latentdebias.precision import Precision
from latentdebias.registry import load_plugins, validate
from latentdebias.shards.format import FORWARD_BATCH
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.jobs.inspect import summary

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class EncodeOptions:
    """The options of `latentdebias encode`, which are also the legal keys of its `--config` YAML."""

    images: str
    out: str
    resolution: PositiveInt
    vae: str = DEFAULT_AUTOENCODER
    flip: bool = False
    dtype: Precision = "fp32"
    samples_per_shard: PositiveInt = 8192
    batch_size: PositiveInt = 32
    forward_batch: PositiveInt = FORWARD_BATCH
    workers: NonNegativeInt | None = None
    max_rejects: Annotated[float, Field(ge=0, le=1)] = 0.01
    device: str | None = None
    imports: tuple[str, ...] = ()


def encode(config: str | None, given: dict[str, Any]) -> None:
    """Encode images; the options `given` win over those in the YAML file `config`, which win over the defaults."""
    values = {**(_read_config(config) if config else {}), **given}
    options = validate(EncodeOptions, values, f"the options of {command('encode')}")
    load_plugins(options.imports)
    rank, world_size = distributed.rank(), distributed.world_size()
    device = open_device(options.device)
    images, autoencoder = find_images(options.images), load_autoencoder(options.vae, device, DTYPES[options.dtype])
    share_cores()
    manifest = encode_images(
        images,
        autoencoder,
        Path(options.out),
        EncodeJob(
            resolution=options.resolution,
            precision=options.dtype,
            flips=options.flip,
            samples_per_shard=options.samples_per_shard,
            batch_size=options.batch_size,
            forward_batch=options.forward_batch,
            workers=options.workers,
            max_reject_share=options.max_rejects,
        ),
        rank=rank,
        world_size=world_size,
    )
    if manifest:
        print(summary(manifest, Path(options.out)))
        print_next("train", "--config", "NAME", "--set", f"data.shards={options.out}")
    else:
        print(f"rank {rank} of {world_size} has made its shards; the last rank to finish writes the manifest")


def _read_config(path: str) -> dict[str, Any]:
    try:
        values = dict(parse_yaml(Path(path).read_text(encoding="utf-8")) or {})
    # dict() raises TypeError or ValueError where the YAML is no mapping, and decoding ValueError where it is no text.
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"--config {path!r} cannot be read as YAML ({error}). Write lines such as 'resolution: 256'."
        ) from None
    return {str(key).replace("-", "_"): value for key, value in values.items()}

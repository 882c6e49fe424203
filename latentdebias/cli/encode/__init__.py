"""Encode images into latent shards: encode.py --images DIR --out DIR --resolution N.

Sets that exist: encode.py verify|status|finalize|inspect DIR, encode.py merge OUT DIR..., encode.py subset OUT DIR;
each says more with --help.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt

from latentdebias import distributed
from latentdebias.autoencoders import DEFAULT_AUTOENCODER, load_autoencoder
from latentdebias.cli.encode.commands import run_command
from latentdebias.devices import default_device, open_device, share_cores
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.registry import validate
from latentdebias.shards.format import FORWARD_BATCH
from latentdebias.shards.jobs.encode import encode_images
from latentdebias.shards.jobs.inspect import summary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class EncodeOptions:
    """The options of `encode.py`, which are also the legal keys of its `--config` YAML."""

    images: str
    out: str
    resolution: PositiveInt
    vae: str = DEFAULT_AUTOENCODER
    flip: bool = False
    dtype: Literal["fp32", "bf16"] = "fp32"
    samples_per_shard: PositiveInt = 8192
    batch_size: PositiveInt = 32
    forward_batch: PositiveInt = FORWARD_BATCH
    workers: NonNegativeInt | None = None
    max_rejects: Annotated[float, Field(ge=0, le=1)] = 0.01
    device: str | None = None


def main() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        run_command(sys.argv[1], sys.argv[2:])
        return
    options = _parse_options()
    rank, world_size = distributed.rank(), distributed.world_size()
    device = open_device(options.device or default_device(distributed.local_rank()))
    images, autoencoder = find_images(options.images), load_autoencoder(options.vae, device, DTYPES[options.dtype])
    share_cores()
    # The same image must give the same bytes on every run.
    torch.backends.cudnn.deterministic = True
    manifest = encode_images(
        images,
        autoencoder,
        Path(options.out),
        resolution=options.resolution,
        flips=options.flip,
        samples_per_shard=options.samples_per_shard,
        batch_size=options.batch_size,
        forward_batch=options.forward_batch,
        workers=options.workers,
        max_reject_share=options.max_rejects,
        rank=rank,
        world_size=world_size,
    )
    if manifest:
        print(summary(manifest, Path(options.out)))
    else:
        print(f"rank {rank} of {world_size} has made its shards; the last rank to finish writes the manifest")


def _parse_options() -> EncodeOptions:
    """The command line over the `--config` YAML over the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--images", help="class folders, a flat folder, .csv, .jsonl, .zip, .tar, or a saved dataset")
    parser.add_argument("--out", help="where the shards go; run the same command again to resume")
    parser.add_argument("--resolution", help="side of the centre crop, pixels")
    parser.add_argument(
        "--vae", help=f"hub id, local folder, 'identity' (pixels) or 'digits' (default {DEFAULT_AUTOENCODER})"
    )
    parser.add_argument("--flip", action="store_true", help="also encode every mirror image")
    parser.add_argument("--dtype", choices=DTYPES, help="of the autoencoder's forward (default fp32)")
    parser.add_argument("--samples-per-shard", help="default 8192")
    parser.add_argument(
        "--batch-size", help="images a worker decodes at a time (default 32); does not change the bytes"
    )
    forward = (
        f"images in one call of the autoencoder (default {FORWARD_BATCH}); less for less memory, recorded in the set"
    )
    parser.add_argument("--forward-batch", help=forward)
    parser.add_argument("--workers", help="decoding processes (default: up to 4)")
    parser.add_argument("--max-rejects", help="share of a process's inputs that may be undecodable (default 0.01)")
    parser.add_argument("--device", help="default: this rank's GPU, or cpu")
    parser.add_argument("--config", help="YAML file of these options; the command line wins")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    given = vars(parser.parse_args())
    given.pop("local_rank", None)
    config = given.pop("config", None)
    return validate(EncodeOptions, {**_read_config(config), **given}, "the options of tools/encode.py")


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    # dict() raises the last two on what is no mapping, and the codec a ValueError on what is no text.
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(
            f"--config {path!r} cannot be read as YAML ({error}). Write lines such as 'resolution: 256'."
        ) from None
    return {str(key).replace("-", "_"): value for key, value in values.items()}

"""Checkpoints of Min-SNR's ViT (Hang et al. 2023), such as `ema_0.9999_xl.pt`."""

from pathlib import Path

import torch
from torch import Tensor

from latentdebias.backbones import MinSNRViTSpec
from latentdebias.backbones.embeddings import TableTime
from latentdebias.backbones.min_snr_vit import SIZES
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.interop.published.checkpoint_file import CheckpointFile, open_checkpoint
from latentdebias.interop.published.shapes import VARIANCES, ImportOptions, Published, ShapeReader, write_published

HEADS = {width: heads for width, _, heads, *_ in SIZES.values()}
VAE = "stabilityai/sd-vae-ft-mse"
TIME_TABLE = "time_embedding.weight"
WEIGHTING = {"name": "min_snr", "gamma": 5.0}


def import_min_snr(path: Path, out: Path, options: ImportOptions, target: str, schedule: str) -> CheckpointFile:
    """Write the model directory `out` of a checkpoint of Min-SNR's ViT; returns the file that was read.

    The file states neither target nor schedule: both are given by their registered names.
    """
    file = open_checkpoint(path)
    write_published(read_min_snr(file, options, target, schedule), file, out, VAE, options.vae)
    return file


def read_min_snr(file: CheckpointFile, options: ImportOptions, target: str, schedule: str) -> Published:
    """The network in a checkpoint, with sizes inferred from the shapes; our parameter names are the published ones."""
    read = ShapeReader(file, "Min-SNR's ViT", HEADS)
    width, channels = read.size("patch_embed.proj.weight", 0), read.size("patch_embed.proj.weight", 1)
    patch_size = read.size("patch_embed.proj.weight", 3)
    spec = MinSNRViTSpec(
        width=width,
        depth=read.depth("blocks"),
        heads=read.heads(width, options.heads),
        patch_size=patch_size,
    )
    outputs = read.size("linear_projection.weight", 0) // (patch_size**2 * channels)
    diffusion = Diffusion(schedule, target, WEIGHTING, variance=VARIANCES.get(outputs, "fixed"))
    read.size(TIME_TABLE, 1)
    weights, num_classes = read.classes("class_embedding.weight", options.num_classes)
    weights[TIME_TABLE] = _of_our_length(weights[TIME_TABLE], diffusion, file)
    side = read.side(read.size("pos_embed", 1) - (2 if num_classes else 1), patch_size)
    return Published(spec, diffusion, channels, side, num_classes, weights)


def _of_our_length(table: Tensor, diffusion: Diffusion, file: CheckpointFile) -> Tensor:
    """The time table (rows, width) cut, or padded with zeros, to the `TableTime.ROWS` rows of our network.

    The rows after the schedule's last step are never read. Raises `UserError` where the schedule has more steps than
    `table` has rows.
    """
    steps = len(diffusion.schedule.grid())
    if len(table) < steps:
        raise UserError(f"{file.path} has {TIME_TABLE} of {len(table)} rows, and the schedule has {steps} steps.")
    missing = TableTime.ROWS - len(table)
    return torch.cat([table[: TableTime.ROWS], table.new_zeros(max(missing, 0), table.shape[1])])

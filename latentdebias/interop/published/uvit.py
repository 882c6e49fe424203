"""Checkpoints of U-ViT (Bao et al. 2023): the published files, or `nnet_ema.pth` of its training.

U-ViT-H was trained on Stable Diffusion's discrete schedule, with time inputs 1 to 1000. U-ViT-L and the pixel models
were trained in continuous time, which schedule linear stands for here: their time input at step t was
999 (t + 1) / 1000.
"""

from pathlib import Path

from latentdebias.backbones import UViTSpec
from latentdebias.backbones.uvit import SIZES
from latentdebias.diffusion import Diffusion
from latentdebias.interop.published.checkpoint_file import CheckpointFile, open_checkpoint
from latentdebias.interop.published.shapes import ImportOptions, Published, ShapeReader, write_published

HEADS = {width: heads for width, _, heads, *_ in SIZES.values()}
VAE = "stabilityai/sd-vae-ft-ema"


def import_uvit(path: Path, out: Path, options: ImportOptions, schedule: str) -> CheckpointFile:
    """Write the model directory `out` of a U-ViT checkpoint, target eps; returns the file that was read.

    The file does not state the schedule, so `schedule` gives its registered name.
    """
    file = open_checkpoint(path)
    write_published(read_uvit(file, options, schedule), file, out, VAE, options.vae)
    return file


def read_uvit(file: CheckpointFile, options: ImportOptions, schedule: str) -> Published:
    """The network in a checkpoint, with sizes inferred from the shapes; our parameter names are the published ones."""
    read = ShapeReader(file, "U-ViT", HEADS)
    width, channels = read.size("patch_embed.proj.weight", 0), read.size("patch_embed.proj.weight", 1)
    patch_size = read.size("patch_embed.proj.weight", 3)
    read.size("mid_block.norm1.weight", 0)
    spec = UViTSpec(
        width=width,
        depth=2 * read.depth("in_blocks") + 1,
        heads=read.heads(width, options.heads),
        patch_size=patch_size,
        final_conv="final_layer.weight" in file.weights,
    )
    weights, num_classes = read.classes("label_emb.weight", options.num_classes)
    side = read.side(read.size("pos_embed", 1) - (2 if num_classes else 1), patch_size)
    diffusion = Diffusion({"name": schedule, "first_time": 1}, "eps")
    return Published(spec, diffusion, channels, side, num_classes, weights)

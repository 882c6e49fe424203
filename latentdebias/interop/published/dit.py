"""DiT checkpoints: the published `DiT-XL-2-*.pt`, and training checkpoints of facebookresearch/DiT in any size."""

from pathlib import Path

from latentdebias.backbones import DiTSpec
from latentdebias.backbones.dit import SIZES
from latentdebias.diffusion import Diffusion
from latentdebias.interop.published.checkpoint_file import CheckpointFile, open_checkpoint
from latentdebias.interop.published.shapes import VARIANCES, ImportOptions, Published, ShapeReader, write_published

HEADS = {width: heads for width, _, heads, *_ in SIZES.values()}
VAE = "stabilityai/sd-vae-ft-ema"


def import_dit(path: Path, out: Path, options: ImportOptions) -> CheckpointFile:
    """Write the model directory `out` of a DiT checkpoint: schedule linear, target eps; returns the file that was read.

    The variance is learned_range where the network has two output channels for each channel of the latents, else fixed.
    """
    file = open_checkpoint(path)
    write_published(read_dit(file, options), file, out, VAE, options.vae)
    return file


def read_dit(file: CheckpointFile, options: ImportOptions) -> Published:
    """The network in a checkpoint, with sizes inferred from the shapes; our parameter names are those of DiT."""
    read = ShapeReader(file, "DiT", HEADS)
    width, channels = read.size("x_embedder.proj.weight", 0), read.size("x_embedder.proj.weight", 1)
    patch_size = read.size("x_embedder.proj.weight", 3)
    outputs = read.size("final_layer.linear.weight", 0) // (patch_size**2 * channels)
    spec = DiTSpec(
        width=width,
        depth=read.depth("blocks"),
        heads=read.heads(width, options.heads),
        patch_size=patch_size,
        mlp_ratio=read.size("blocks.0.mlp.fc1.weight", 0) / width,
    )
    weights, num_classes = read.classes("y_embedder.embedding_table.weight", options.num_classes)
    side = read.side(read.size("pos_embed", 1), patch_size)
    diffusion = Diffusion("linear", "eps", variance=VARIANCES.get(outputs, "fixed"))
    return Published(spec, diffusion, channels, side, num_classes, weights)

"""`latentdebias export`: import published checkpoints as model directories, export model directories."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latentdebias.cli.argument_types import positive
from latentdebias.errors import command, run_tool

SCHEDULES = ("linear", "scaled_linear", "cosine")
TRAINED_WITH = ("diffusers", "dit")


def main(words: Sequence[str]) -> None:
    """Run the subcommand that the words name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.export import COMMANDS

    COMMANDS[arguments.command](arguments)


def parser() -> argparse.ArgumentParser:
    """The options of each subcommand."""
    parser = argparse.ArgumentParser(
        prog=command("export"),
        description="Import published checkpoints as model directories; export model directories to diffusers.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_importers(commands)
    _add_exporters(commands)
    return parser


def _add_importers(commands: argparse._SubParsersAction) -> None:
    dit = _add(commands, "import-dit", "a checkpoint of facebookresearch/DiT, such as DiT-XL-2-256x256.pt")
    min_snr = _add(commands, "import-min-snr", "a checkpoint of Min-SNR's ViT")
    uvit = _add(commands, "import-uvit", "a checkpoint of U-ViT, such as nnet_ema.pth")
    for each in (dit, min_snr, uvit):
        each.add_argument("file", type=Path, metavar="FILE")
        each.add_argument(
            "--heads", type=positive, metavar="N", help="attention heads; default: as published for the width"
        )
        classes = "default: the rows of the class table less the null class; 1000 rows are ImageNet without one"
        each.add_argument("--num-classes", type=positive, metavar="N", help=classes)
    targets = "default x0, which ema_0.9999_xl.pt predicts; the file does not say"
    min_snr.add_argument("--target", choices=["eps", "x0", "v"], default="x0", help=targets)
    min_snr.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="default cosine")
    continuous = (
        "default scaled_linear, of U-ViT-H; linear for U-ViT-L and the pixel models, trained in continuous time"
    )
    uvit.add_argument("--schedule", choices=SCHEDULES, default="scaled_linear", help=continuous)
    folder = _add(commands, "import-diffusers", "a DiTPipeline or DiTTransformer2DModel folder")
    folder.add_argument("folder", type=Path, metavar="DIR")
    frequencies = "dit: the weights were converted from DiT's own, as facebook/DiT-XL-2-256's; default diffusers"
    folder.add_argument("--trained-with", choices=TRAINED_WITH, default="diffusers", help=frequencies)
    for each in (dit, min_snr, uvit, folder):
        each.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model directory to write")
        vae = "the autoencoder of the latents; default: the folder's own, or the one that the authors name"
        each.add_argument("--vae", metavar="ID_OR_DIR", help=vae)


def _add_exporters(commands: argparse._SubParsersAction) -> None:
    pipeline = _add(commands, "diffusers", "write a folder for diffusers' from_pretrained")
    pipeline.add_argument("--out", required=True, type=Path, metavar="DIR")
    hub = _add(commands, "hub", "push the diffusers folder and the model directory to the Hugging Face hub")
    hub.add_argument("--repo", required=True, metavar="OWNER/NAME")
    hub.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json of the shards, for the card")
    hub.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="scores for the card; default: MODEL.evaluation.json"
    )
    for each in (pipeline, hub):
        each.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
        each.add_argument("--vae", metavar="ID_OR_DIR", help="where the autoencoder is now; default: its own id")


def _add(commands: argparse._SubParsersAction, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    return parser


if __name__ == "__main__":
    run_tool(main)

"""Exchange models: import published checkpoints as model directories, export model directories to diffusers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from latentdebias.cli.sampling_arguments import positive
from latentdebias.diffusion.schedules import SCHEDULES
from latentdebias.errors import UserError, run_tool
from latentdebias.files import check_output_folder
from latentdebias.interop.diffusers.pipeline import export_diffusers
from latentdebias.interop.diffusers.transformer import MODEL_INDEX, TrainedWith, import_diffusers
from latentdebias.interop.hub import push_to_hub
from latentdebias.interop.published.checkpoint_file import CheckpointFile
from latentdebias.interop.published.dit import import_dit
from latentdebias.interop.published.min_snr import import_min_snr
from latentdebias.interop.published.shapes import ImportOptions
from latentdebias.interop.published.uvit import import_uvit
from latentdebias.models.model_directory import CONFIG, WEIGHTS, load_model, read_model_config

Command = Callable[[argparse.Namespace], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    importers(commands)
    exporters(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


def importers(commands: argparse._SubParsersAction) -> None:
    dit = add(
        commands, "import-dit", run_import_dit, "a checkpoint of facebookresearch/DiT, such as DiT-XL-2-256x256.pt"
    )
    min_snr = add(commands, "import-min-snr", run_import_min_snr, "a checkpoint of Min-SNR's ViT")
    uvit = add(commands, "import-uvit", run_import_uvit, "a checkpoint of U-ViT, such as nnet_ema.pth")
    for each in (dit, min_snr, uvit):
        each.add_argument("file", type=Path, metavar="FILE")
        each.add_argument(
            "--heads", type=positive, metavar="N", help="attention heads; default: as published for the width"
        )
        classes = "default: the rows of the class table less the null class; 1000 rows are ImageNet without one"
        each.add_argument("--num-classes", type=positive, metavar="N", help=classes)
    targets = "default x0, which ema_0.9999_xl.pt predicts; the file does not say"
    min_snr.add_argument("--target", choices=["eps", "x0", "v"], default="x0", help=targets)
    schedules = [name for name in SCHEDULES.names() if name in ("linear", "scaled_linear", "cosine")]
    min_snr.add_argument("--schedule", choices=schedules, default="cosine", help="default cosine")
    continuous = (
        "default scaled_linear, of U-ViT-H; linear for U-ViT-L and the pixel models, trained in continuous time"
    )
    uvit.add_argument("--schedule", choices=schedules, default="scaled_linear", help=continuous)
    folder = add(commands, "import-diffusers", run_import_diffusers, "a DiTPipeline or DiTTransformer2DModel folder")
    folder.add_argument("folder", type=Path, metavar="DIR")
    frequencies = "dit: the weights were converted from DiT's own, as facebook/DiT-XL-2-256's; default diffusers"
    folder.add_argument("--trained-with", choices=get_args(TrainedWith), default="diffusers", help=frequencies)
    for each in (dit, min_snr, uvit, folder):
        each.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model directory to write")
        vae = "the autoencoder of the latents; default: the folder's own, or the one that the authors name"
        each.add_argument("--vae", metavar="ID_OR_DIR", help=vae)


def exporters(commands: argparse._SubParsersAction) -> None:
    pipeline = add(commands, "diffusers", run_diffusers, "write a folder for diffusers' from_pretrained")
    pipeline.add_argument("--out", required=True, type=Path, metavar="DIR")
    hub = add(commands, "hub", run_hub, "push the diffusers folder and the model directory to the Hugging Face hub")
    hub.add_argument("--repo", required=True, metavar="OWNER/NAME")
    hub.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json of the shards, for the card")
    hub.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="scores for the card; default: MODEL.evaluation.json"
    )
    for each in (pipeline, hub):
        each.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
        each.add_argument("--vae", metavar="ID_OR_DIR", help="where the autoencoder is now; default: its own id")


def add(commands: argparse._SubParsersAction, name: str, run: Command, what: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    return command


def run_import_dit(arguments: argparse.Namespace) -> None:
    check_out(arguments.out, WEIGHTS)
    report(arguments.out, import_dit(arguments.file, arguments.out, options(arguments)))


def run_import_min_snr(arguments: argparse.Namespace) -> None:
    check_out(arguments.out, WEIGHTS)
    chosen = options(arguments), arguments.target, arguments.schedule
    report(arguments.out, import_min_snr(arguments.file, arguments.out, *chosen))


def run_import_uvit(arguments: argparse.Namespace) -> None:
    check_out(arguments.out, WEIGHTS)
    report(arguments.out, import_uvit(arguments.file, arguments.out, options(arguments), arguments.schedule))


def run_import_diffusers(arguments: argparse.Namespace) -> None:
    check_out(arguments.out, WEIGHTS)
    files = import_diffusers(arguments.folder, arguments.out, arguments.vae, arguments.trained_with)
    report(arguments.out, *files)


def run_diffusers(arguments: argparse.Namespace) -> None:
    check_out(arguments.out, MODEL_INDEX)
    exported = export_diffusers(load_model(arguments.model), arguments.out, arguments.vae)
    print(f"{exported.pipeline} in {arguments.out}")
    if exported.reason:
        load = "DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True)"
        print(f"diffusers' own DiTPipeline cannot hold it: {exported.reason}. Load it with {load}")
    elif exported.own_transformer:
        print(
            "Load it after `import latentdebias.export`, for its time frequencies are DiT's, and not diffusers' own; "
            "a model trained with model.freq_shift=1 needs diffusers alone."
        )


def run_hub(arguments: argparse.Namespace) -> None:
    given = arguments.vae, arguments.manifest, arguments.evaluation
    print(push_to_hub(arguments.model, arguments.repo, *given))


def options(arguments: argparse.Namespace) -> ImportOptions:
    return ImportOptions(vae=arguments.vae, heads=arguments.heads, num_classes=arguments.num_classes)


def check_out(out: Path, kind: str) -> None:
    """Raise `UserError` unless `out` can be written, and holds nothing but an earlier result."""
    check_output_folder(out)
    if out.exists() and any(out.iterdir()) and not (out / kind).is_file():
        raise UserError(f"--out {out} holds other files, and would be replaced; name another folder.")


def report(out: Path, *files: CheckpointFile) -> None:
    for file in files:
        print(f"{file.path}: sha256 {file.sha256}" + (f", its {file.container!r}" if file.container else ""))
    config = read_model_config(out / CONFIG)
    model, diffusion = config.model, config.diffusion
    sizes = ", ".join(f"{name} {model[name]}" for name in ("width", "depth", "heads", "patch_size"))
    print(
        f"{out}: {model['name']}, {sizes}, latents {tuple(config.latent_shape)}, {config.num_classes} classes, target "
        f"{diffusion['target']['name']}, schedule {diffusion['schedule']['name']}, variance "
        f"{diffusion['variance']['name']}"
    )


if __name__ == "__main__":
    run_tool(main)

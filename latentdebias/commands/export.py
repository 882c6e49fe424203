"""`latentdebias export`: published checkpoints to model directories, model directories to diffusers and the hub."""

import argparse
from collections.abc import Callable
from pathlib import Path

from latentdebias.commands.terminal import print_next
from latentdebias.errors import UserError
from latentdebias.files import check_output_folder
from latentdebias.interop.diffusers.pipeline import export_diffusers
from latentdebias.interop.diffusers.transformer import MODEL_INDEX, import_diffusers
from latentdebias.interop.hub import push_to_hub
from latentdebias.interop.published.checkpoint_file import CheckpointFile
from latentdebias.interop.published.dit import import_dit
from latentdebias.interop.published.min_snr import import_min_snr
from latentdebias.interop.published.shapes import ImportOptions
from latentdebias.interop.published.uvit import import_uvit
from latentdebias.models.model_directory import CONFIG, WEIGHTS, load_model, read_model_config


def _import_dit(arguments: argparse.Namespace) -> None:
    _check_out(arguments.out, WEIGHTS)
    _report(arguments.out, import_dit(arguments.file, arguments.out, _options(arguments)))


def _import_min_snr(arguments: argparse.Namespace) -> None:
    _check_out(arguments.out, WEIGHTS)
    chosen = _options(arguments), arguments.target, arguments.schedule
    _report(arguments.out, import_min_snr(arguments.file, arguments.out, *chosen))


def _import_uvit(arguments: argparse.Namespace) -> None:
    _check_out(arguments.out, WEIGHTS)
    _report(arguments.out, import_uvit(arguments.file, arguments.out, _options(arguments), arguments.schedule))


def _import_diffusers(arguments: argparse.Namespace) -> None:
    _check_out(arguments.out, WEIGHTS)
    files = import_diffusers(arguments.folder, arguments.out, arguments.vae, arguments.trained_with)
    _report(arguments.out, *files)


def _diffusers(arguments: argparse.Namespace) -> None:
    _check_out(arguments.out, MODEL_INDEX)
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


def _hub(arguments: argparse.Namespace) -> None:
    given = arguments.vae, arguments.manifest, arguments.evaluation
    print(push_to_hub(arguments.model, arguments.repo, *given))


def _options(arguments: argparse.Namespace) -> ImportOptions:
    return ImportOptions(vae=arguments.vae, heads=arguments.heads, num_classes=arguments.num_classes)


def _check_out(out: Path, kind: str) -> None:
    """Raise `UserError` unless `out` can be written, and holds nothing but an earlier result."""
    check_output_folder(out)
    if out.exists() and any(out.iterdir()) and not (out / kind).is_file():
        raise UserError(f"--out {out} holds other files, and would be replaced; name another folder.")


def _report(out: Path, *files: CheckpointFile) -> None:
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
    print_next("sample", "--model", out, "--per-class", 1, "--out", "samples")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "import-dit": _import_dit,
    "import-min-snr": _import_min_snr,
    "import-uvit": _import_uvit,
    "import-diffusers": _import_diffusers,
    "diffusers": _diffusers,
    "hub": _hub,
}

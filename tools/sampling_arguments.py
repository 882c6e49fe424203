"""The options by which images are drawn from a model directory, shared by sample.py and evaluate.py."""

import argparse

import torch

from latentdebias.errors import UserError, legal_choices
from latentdebias.export import LoadedModel, load_model
from latentdebias.registry import validate
from latentdebias.sampling import SAMPLERS
from latentdebias.sampling.images import DrawOptions


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = DrawOptions()
    parser.add_argument("--sampler", default=defaults.sampler, help=f"one of {', '.join(SAMPLERS.names())}")
    parser.add_argument("--steps", default=defaults.steps, metavar="N")
    parser.add_argument("--guidance", default=defaults.guidance, metavar="S", help="1: none")
    parser.add_argument("--seed", default=defaults.seed, metavar="N")
    parser.add_argument("--batch-size", default=defaults.batch_size, metavar="N", help="does not change the images")
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the model's autoencoder is now; default: its own id")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def draw_options(arguments: argparse.Namespace) -> DrawOptions:
    """The options as given; `UserError` for an unknown sampler or a number out of range."""
    SAMPLERS.build(arguments.sampler)
    names = ("sampler", "steps", "guidance", "seed", "batch_size")
    return validate(DrawOptions, {name: getattr(arguments, name) for name in names}, "the options given")


def open_model(arguments: argparse.Namespace) -> LoadedModel:
    return load_model(arguments.model, arguments.device)


def parse_classes(text: str | None, model: LoadedModel) -> list[int]:
    """Class numbers of `3,7` or of names; all of them by default, [0] of an unconditional model."""
    count, names = model.config.num_classes, model.config.class_names
    if text is None:
        return list(range(max(count, 1)))
    if count == 0:
        raise UserError(f"--classes {text!r}: this model is unconditional and has no classes; use --num N.")
    return [_parse_class(part.strip(), count, names) for part in text.split(",")]


def _parse_class(text: str, count: int, names: list[str]) -> int:
    if text.isdigit() and int(text) < count:
        return int(text)
    if text in names:
        return names.index(text)
    choices = legal_choices(text, names) if len(names) <= 20 else ""
    raise UserError(f"--classes {text!r} is no class of this model, which has 0 to {count - 1}. {choices}".rstrip())

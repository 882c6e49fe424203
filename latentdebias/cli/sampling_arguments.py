"""The options by which images are drawn from a model directory, shared by sample.py and evaluate.py."""

import argparse
import dataclasses
from pathlib import Path
from typing import get_args

import yaml

from latentdebias.backbones.spec import Precision
from latentdebias.devices import default_device, open_device
from latentdebias.distributed import local_rank
from latentdebias.errors import UserError, legal_choices
from latentdebias.models.model_directory import LoadedModel, load_model
from latentdebias.registry import Spec, validate
from latentdebias.sampling import SAMPLERS, DrawOptions, check_draw
from latentdebias.sampling.guidance import GUIDANCE_RULES, GUIDANCE_SCHEDULES

GUIDANCE_FLAGS = ("interval", "schedule", "rule", "channels", "rescale")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each of `DrawOptions`, and those that say where the model's parts are; none has a default here."""
    defaults = DrawOptions()
    samplers = f"one of {', '.join(SAMPLERS.names())}, or with options: '{{name: ddim, eta: 0.5}}'; default ddim"
    parser.add_argument("--sampler", type=spec, help=samplers)
    parser.add_argument("--steps", metavar="N", help=f"default {defaults.steps}")
    guidance = f"1: none; default {defaults.guidance.scale}, and 1 for a model without classes"
    parser.add_argument("--guidance", metavar="S", help=guidance)
    add_guidance_arguments(parser)
    parser.add_argument("--seed", metavar="N", help=f"default {defaults.seed}")
    batch_size = f"images drawn together; changes no more than their last bits; default {defaults.batch_size}"
    parser.add_argument("--batch-size", metavar="N", help=batch_size)
    precision = f"one of {', '.join(get_args(Precision))}; default {defaults.precision}"
    parser.add_argument("--precision", help=precision)
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the model's autoencoder is now; default: its own id")
    parser.add_argument("--device", default=default_device(local_rank()))


def add_guidance_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of `Guidance` but the scale, and --zero-init and --autoguidance."""
    interval = "positions on the schedule, 0 data to 1 noise, between which guidance is on, such as 0.2,0.8"
    parser.add_argument("--guidance-interval", type=numbers, metavar="LOW,HIGH", help=interval)
    schedules, rules = ", ".join(GUIDANCE_SCHEDULES.names()), ", ".join(GUIDANCE_RULES.names())
    parser.add_argument("--guidance-schedule", type=spec, metavar="NAME", help=f"one of {schedules}; default constant")
    parser.add_argument("--guidance-rule", type=spec, metavar="NAME", help=f"one of {rules}; default cfg")
    channels = "guide the first N channels only; 3: DiT's published numbers"
    parser.add_argument("--guidance-channels", metavar="N", help=channels)
    parser.add_argument("--guidance-rescale", metavar="PHI", help="0 to 1; default 0")
    zero_init = "the first N steps stand still; models of schedule flow only"
    parser.add_argument("--zero-init", metavar="N", help=zero_init)
    weaker = "guide by a weaker model instead of the null class"
    parser.add_argument("--autoguidance", type=Path, metavar="DIR", help=weaker)


def spec(text: str) -> Spec:
    """An argparse type: a name, or a mapping as YAML writes it: {name: ddim, eta: 0.5}"""
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        parsed = None
    return parsed if isinstance(parsed, dict) else text


def numbers(text: str) -> list[str]:
    """An argparse type: numbers separated by commas, checked where the options are."""
    return text.split(",")


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def open_model(arguments: argparse.Namespace) -> tuple[LoadedModel, DrawOptions]:
    """The model, and the options to draw from it; `UserError` where they are none, or do not suit the model."""
    model = load_model(arguments.model, open_device(arguments.device))
    if arguments.autoguidance is not None:
        model = model.guided_by(load_model(arguments.autoguidance, arguments.device))
    options = draw_options(arguments, guided=model.config.num_classes > 0 or model.weaker is not None)
    check_draw(options, model.latent_model.facts)
    return model, options


def draw_options(arguments: argparse.Namespace, guided: bool) -> DrawOptions:
    """The options that the flags give; without --guidance the scale is the usual one, or 1 unless `guided`."""
    scale = DrawOptions().guidance.scale if guided else 1
    parts = {"scale": arguments.guidance, **{name: getattr(arguments, f"guidance_{name}") for name in GUIDANCE_FLAGS}}
    guidance = {"scale": scale, **{name: value for name, value in parts.items() if value is not None}}
    names = [each.name for each in dataclasses.fields(DrawOptions) if each.name != "guidance"]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return validate(DrawOptions, {**given, "guidance": guidance}, "the options given")


def parse_classes(text: str | None, model: LoadedModel) -> list[int]:
    """Classes `3,7` by name, else by number; all of them by default, [0] of an unconditional model."""
    count, names = model.config.num_classes, model.config.class_names
    if text is None:
        return list(range(max(count, 1)))
    if count == 0:
        raise UserError(f"--classes {text!r}: this model is unconditional and has no classes; use --num N.")
    return [_parse_class(part.strip(), count, names) for part in text.split(",")]


def _parse_class(text: str, count: int, names: list[str]) -> int:
    # Names first: sorted as text, the folder "2" of twelve numbered ones is class 4.
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit() and int(text) < count:
        return int(text)
    choices = legal_choices(text, names) if len(names) <= 20 else ""
    raise UserError(f"--classes {text!r} is no class of this model, which has 0 to {count - 1}. {choices}".rstrip())

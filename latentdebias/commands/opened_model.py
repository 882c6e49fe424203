"""Opening the model, the draw options and the classes that arguments of `latentdebias.cli.sampling_arguments` name."""

import argparse
import dataclasses

from latentdebias.devices import open_device
from latentdebias.errors import UserError, legal_choices
from latentdebias.models.model_directory import LoadedModel, load_model
from latentdebias.registry import validate
from latentdebias.sampling import DrawOptions, check_draw

GUIDANCE_FLAGS = ("interval", "schedule", "rule", "channels", "rescale")


def open_model(arguments: argparse.Namespace) -> tuple[LoadedModel, DrawOptions]:
    """Load the model and the options to draw from it; `UserError` for options that are bad or do not suit the model."""
    device = open_device(arguments.device)
    model = load_model(arguments.model, device)
    if arguments.autoguidance is not None:
        model = model.guided_by(load_model(arguments.autoguidance, device))
    options = draw_options(arguments, guided=model.config.num_classes > 0 or model.weaker is not None)
    check_draw(options, model.latent_model.facts)
    return model, options


def draw_options(arguments: argparse.Namespace, guided: bool) -> DrawOptions:
    """The `DrawOptions` that the arguments give.

    Without --guidance the scale is the default of `DrawOptions` for a model that can be guided, else 1.
    """
    scale = DrawOptions().guidance.scale if guided else 1
    parts = {"scale": arguments.guidance, **{name: getattr(arguments, f"guidance_{name}") for name in GUIDANCE_FLAGS}}
    guidance = {"scale": scale, **{name: value for name, value in parts.items() if value is not None}}
    names = [each.name for each in dataclasses.fields(DrawOptions) if each.name != "guidance"]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return validate(DrawOptions, {**given, "guidance": guidance}, "the options given")


def parse_classes(text: str | None, model: LoadedModel) -> list[int]:
    """The numbers of the classes in a text such as "3,7", which holds class names or numbers.

    Without a text they are all classes, or [0] for an unconditional model. Raises `UserError` for an unknown class.
    """
    count, names = model.config.num_classes, model.config.class_names
    if text is None:
        return list(range(max(count, 1)))
    if count == 0:
        raise UserError(f"--classes {text!r}: this model is unconditional and has no classes; use --num N.")
    return [_parse_class(part.strip(), count, names) for part in text.split(",")]


def _parse_class(text: str, count: int, names: list[str]) -> int:
    # Names win over numbers: of twelve folders named by numbers, which are sorted as text, folder "2" is class 4.
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit() and int(text) < count:
        return int(text)
    choices = legal_choices(text, names) if len(names) <= 20 else ""
    raise UserError(f"--classes {text!r} is no class of this model, which has 0 to {count - 1}. {choices}".rstrip())

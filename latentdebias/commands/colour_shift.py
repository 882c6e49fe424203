"""`latentdebias evaluate colour-shift`: how far samples' colours are from the data's, by number of steps."""

import argparse
import dataclasses
import functools
import json

from latentdebias.autoencoders import load_autoencoder
from latentdebias.commands.opened_model import open_model
from latentdebias.commands.terminal import at_terminal, table
from latentdebias.devices import open_device
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import EXTRACTORS, FeatureSet
from latentdebias.evaluation.metrics import ColourShift
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity
from latentdebias.evaluation.protocol.scoring import ModelScoring, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import open_images
from latentdebias.evaluation.statistics_cache import default_folder
from latentdebias.files import check_output_file, publish
from latentdebias.registry import load_plugins
from latentdebias.sampling import check_draw

PIXELS = EXTRACTORS.build("pixels").load()
COLUMNS = {
    "colour_shift": "colour (levels)",
    "colour_shift_red": "red",
    "colour_shift_green": "green",
    "colour_shift_blue": "blue",
    "spectrum_shift": "low frequencies (dB)",
}


def colour_shift(arguments: argparse.Namespace) -> None:
    """Measure the shift at each number of steps, print a table, and write the records."""
    load_plugins(arguments.imports or ())
    model_dir = arguments.model.absolute()
    out = arguments.out or model_dir.with_name(f"{model_dir.name}.colour_shift.json")
    check_output_file(out)
    numbers, arguments.steps = arguments.steps, arguments.steps[0]
    model, first = open_model(arguments)
    choices = [dataclasses.replace(first, steps=steps) for steps in numbers]
    for options in choices:
        check_draw(options, model.latent_model.facts)
    reference = _reference(arguments, model.config.resolution)
    sampler = model.image_sampler(arguments.vae)
    identity = ModelIdentity.of_directory(arguments.model, arguments.autoguidance)
    scoring = ModelScoring(Scoring([ColourShift()], PIXELS), reference, arguments.reference, arguments.num)
    records = [scoring.score(identity, sampler, options)[0] for options in choices]
    publish(out, (json.dumps([dataclasses.asdict(record) for record in records], indent=2) + "\n").encode())
    print(f"{_table(records)}\nwritten to {out}")


def _reference(arguments: argparse.Namespace, resolution: int) -> FeatureSet:
    vae = functools.partial(load_autoencoder, device=open_device(arguments.device))
    reference = reference_features(
        open_images(arguments.reference, resolution, vae), PIXELS, arguments.cache or default_folder()
    )
    if reference is None or reference.colour is None:
        raise UserError(f"--reference {arguments.reference} holds no images, so it has no colours; pass images.")
    return reference


def _table(records: list[ProtocolRecord]) -> str:
    """The table, with one row for each number of steps; each shift is followed by its 95% interval.

    Shifts of colour are in levels of 0 to 255, the shift of the spectrum is in dB.
    """
    rows = [["steps", *COLUMNS.values()]]
    for record in records:
        assert record.sampling is not None
        rows.append([str(record.sampling.steps), *(record.told(name) for name in COLUMNS)])
    first = "\n".join(["", *records[0].settings(), ""]) if at_terminal() else records[0].line()
    return f"{table(rows)}\nthe first row in full: {first}"

"""`latentdebias evaluate colour-shift`: how far samples' colours are from the data's, by number of steps."""

import argparse
import dataclasses
import functools
import json

from latentdebias.autoencoders import load_autoencoder
from latentdebias.commands.opened_model import open_model, parse_classes
from latentdebias.devices import open_device
from latentdebias.drawing.image_sampler import labels_in_turn
from latentdebias.errors import UserError
from latentdebias.evaluation.evaluator import extract
from latentdebias.evaluation.extractors import EXTRACTORS, FeatureSet
from latentdebias.evaluation.metrics import ColourShift
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.protocol.scoring import Origin, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import open_images
from latentdebias.evaluation.sources.generated import GeneratedImages
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
    sampler, labels = model.image_sampler(arguments.vae), labels_in_turn(parse_classes(None, model), arguments.num)
    identity = ModelIdentity.of_directory(arguments.model, arguments.autoguidance)
    scoring = Scoring([ColourShift()], PIXELS)
    records = []
    for options in choices:
        drawn = GeneratedImages(sampler, labels, options)
        samples = extract(drawn, PIXELS, drawn.count, f"{options.steps} steps", drawn.num_classes)
        protocol = SamplingProtocol.of(identity, options, labels="even")
        records.append(scoring.score(samples, reference, Origin(str(arguments.model), arguments.reference, protocol)))
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
    lines = [f"{'steps':>6}" + "".join(f"{title:>28}" for title in COLUMNS.values())]
    for record in records:
        assert record.sampling is not None
        cells = (f"{record.told(name):>28}" for name in COLUMNS)
        lines.append(f"{record.sampling.steps:6}" + "".join(cells))
    return "\n".join([*lines, f"the first row in full: {records[0].line()}"])

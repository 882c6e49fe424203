"""`latentdebias evaluate`: score what a model draws, or images that exist."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from latentdebias.autoencoders import Autoencoder, load_autoencoder
from latentdebias.commands.opened_model import open_model
from latentdebias.commands.terminal import at_terminal, print_next, table
from latentdebias.devices import open_device
from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.comparison import better_in
from latentdebias.evaluation.protocol.intervals import RESAMPLES
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.protocol.scoring import Origin, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import FoundImages, open_images, resolution_of
from latentdebias.evaluation.sources.generated import GeneratedImages
from latentdebias.evaluation.sources.sample_sets import images_of, protocol_of
from latentdebias.evaluation.sources.source import EvenlySpaced, ImageSource
from latentdebias.evaluation.statistics_cache import default_folder
from latentdebias.files import check_output_file
from latentdebias.process_groups import joined_ranks
from latentdebias.registry import load_plugins

MAX_SAMPLES = 50_000
LoadAutoencoder = Callable[[str], Autoencoder]


def evaluate(arguments: argparse.Namespace) -> None:
    """Score one set of images against another, and write the record; under a launcher the processes share the work."""
    load_plugins(arguments.imports or ())
    out = arguments.out or _default_out(arguments)
    check_output_file(out)
    device = open_device(arguments.device)
    vae = functools.partial(load_autoencoder, device=device)
    samples, reference, sampling = (_generated if arguments.model else _stored)(arguments, vae)
    metrics = [METRICS.build(name) for name in arguments.metrics or METRICS.names()]
    resamples = RESAMPLES if arguments.resamples is None else arguments.resamples
    scoring = Scoring(metrics, _extractor(arguments, sampling).to(device), resamples)
    with joined_ranks():
        references = reference_features(reference, scoring.extractor, arguments.cache or default_folder())
        scored = extract_over_ranks(samples, scoring.extractor, "samples")
    # Every rank but the first is done.
    if scored is None or references is None:
        return
    origin = Origin(str(arguments.model or arguments.samples), arguments.reference, sampling)
    record = scoring.score(scored, references, origin)
    record.write(out)
    print(f"{record.line() if arguments.line or not at_terminal() else as_text(record)}\nwritten to {out}")
    print_next("evaluate", "compare", out, "OTHER.json")


def as_text(record: ProtocolRecord) -> str:
    """The scores as a table with their intervals, then the protocol, a setting on each line."""
    better, rows = better_in(record), [["score", "value", "95% interval", "better"]]
    for name, score in record.scores.items():
        interval = "{:.4g} to {:.4g}".format(*record.intervals[name]) if name in record.intervals else ""
        rows.append([name, f"{score:.4g}", interval, better.get(name, "")])
    return "\n".join([table(rows), "", *record.settings(), ""])


def _generated(
    arguments: argparse.Namespace, vae: LoadAutoencoder
) -> tuple[ImageSource, FoundImages, SamplingProtocol]:
    """The images that the model draws, the reference at the model's resolution, and the settings of the drawing.

    The classes have equally many images, or one apart.
    """
    model, options = open_model(arguments)
    reference = open_images(arguments.reference, model.config.resolution, vae)
    count = arguments.num or min(reference.count or MAX_SAMPLES, MAX_SAMPLES)
    identity = ModelIdentity.of_directory(arguments.model, arguments.autoguidance)
    protocol = SamplingProtocol.of(identity, options, labels="even")
    return GeneratedImages.evenly(model.image_sampler(arguments.vae), count, options), reference, protocol


def _stored(
    arguments: argparse.Namespace, vae: LoadAutoencoder
) -> tuple[ImageSource, FoundImages, SamplingProtocol | None]:
    """The images of `--samples`, the reference at their resolution, and the settings of the drawing.

    The settings are those that `latentdebias sample` recorded, None for other images.
    """
    path, protocol = str(images_of(arguments.samples)), protocol_of(arguments.samples)
    resolution = resolution_of(path)
    samples = open_images(path, resolution, vae)
    reference = open_images(arguments.reference, resolution, vae)
    return EvenlySpaced(samples, arguments.num) if arguments.num else samples, reference, protocol


def _default_out(arguments: argparse.Namespace) -> Path:
    """The path of the record where `--out` is not given.

    It lies beside a model directory, not in it, because the next export replaces the directory with all its files.
    """
    if arguments.model:
        model = arguments.model.absolute()
        return model.with_name(f"{model.name}.evaluation.json")
    samples = arguments.samples
    return samples / "evaluation.json" if samples.is_dir() else samples.with_suffix(".evaluation.json")


def _extractor(arguments: argparse.Namespace, sampling: SamplingProtocol | None) -> Extractor:
    name = arguments.extractor or ("digits" if sampling and sampling.vae.split()[0] == "digits" else "inception")
    weights = {"inception": arguments.inception_weights, "dinov2": arguments.dinov2_weights}
    spec = {"name": name, "weights": weights[name]} if name in weights else name
    return EXTRACTORS.build(spec).load()

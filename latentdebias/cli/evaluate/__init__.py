"""Score a model, or images that exist: evaluate.py --model DIR --reference PATH [--num N]

Under torchrun the ranks share the drawing and the extraction, and the scores are those of one process:
torchrun --nproc_per_node 8 -- tools/evaluate.py ... (without `--`, torchrun takes --num for an option of its own).
Also: evaluate.py compare A.json B.json, evaluate.py colour-shift --model DIR --reference PATH --steps 5,10,25.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from latentdebias.autoencoders import Autoencoder, load_autoencoder
from latentdebias.cli.evaluate.commands import run_command
from latentdebias.cli.sampling_arguments import add_sampling_arguments, open_model, parse_classes, positive
from latentdebias.devices import open_device
from latentdebias.drawing.image_sampler import labels_in_turn
from latentdebias.evaluation.evaluator import extract_over_ranks
from latentdebias.evaluation.extractors import EXTRACTORS, Extractor
from latentdebias.evaluation.gathering import joined_ranks
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.intervals import RESAMPLES
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.protocol.scoring import Origin, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.drawn import DrawnImages
from latentdebias.evaluation.sources.find import FoundImages, open_images, resolution_of
from latentdebias.evaluation.sources.sample_sets import images_of, protocol_of
from latentdebias.evaluation.sources.source import EvenlySpaced, ImageSource
from latentdebias.evaluation.statistics_cache import default_folder
from latentdebias.files import check_output_file
from latentdebias.registry import load_plugins

MAX_SAMPLES = 50_000
LoadAutoencoder = Callable[[str], Autoencoder]


def main() -> None:
    load_plugins(())
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        run_command(sys.argv[1], sys.argv[2:])
        return
    arguments = _parse()
    out = arguments.out or _default_out(arguments)
    check_output_file(out)
    vae = functools.partial(load_autoencoder, device=open_device(arguments.device))
    samples, reference, sampling = (_drawn if arguments.model else _found)(arguments, vae)
    metrics = [METRICS.build(name) for name in arguments.metrics.split(",")]
    scoring = Scoring(metrics, _extractor(arguments, sampling), arguments.resamples)
    with joined_ranks():
        references = reference_features(reference, scoring.extractor, arguments.cache)
        scored = extract_over_ranks(samples, scoring.extractor, "samples")
    # Every rank but the first is done.
    if scored is None or references is None:
        return
    origin = Origin(str(arguments.model or arguments.samples), arguments.reference, sampling)
    record = scoring.score(scored, references, origin)
    record.write(out)
    print(f"{record.line()}\nwritten to {out}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--model", type=Path, metavar="DIR", help="a model directory, whose samples are drawn here")
    found = "images that exist: a folder, .tar or .zip archives, an .npz, or latent shards"
    samples.add_argument("--samples", type=Path, metavar="PATH", help=found)
    reference = "images, archives, latent shards, or an .npz of images or of ADM's moments"
    parser.add_argument("--reference", required=True, metavar="PATH", help=reference)
    num = "samples, evenly over the classes; default all, or as many as references and at most 50,000 of a model"
    parser.add_argument("--num", type=positive, metavar="N", help=num)
    parser.add_argument("--metrics", default=",".join(METRICS.names()), help="default: all that apply")
    parser.add_argument("--extractor", help=f"one of {', '.join(EXTRACTORS.names())}; default: digits for its demo")
    parser.add_argument("--inception-weights", metavar="PATH", help="default: torch's hub cache")
    parser.add_argument("--dinov2-weights", metavar="PATH", help="default: torch's hub cache")
    halves = f"halves of the samples that make the 95%% intervals; 0: none; default {RESAMPLES}"
    parser.add_argument("--resamples", type=_not_negative, default=RESAMPLES, metavar="N", help=halves)
    cache = "where references' statistics are kept; default: %(default)s, or $LATENTDEBIAS_CACHE/statistics"
    parser.add_argument("--cache", type=Path, default=default_folder(), metavar="DIR", help=cache)
    out = "default: evaluation.json in the folder of samples, MODEL.evaluation.json beside a model or file"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    add_sampling_arguments(parser)
    return parser.parse_args()


def _not_negative(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return int(text)


def _drawn(arguments: argparse.Namespace, vae: LoadAutoencoder) -> tuple[ImageSource, FoundImages, SamplingProtocol]:
    """What the model draws, as many of each class, and the reference at its resolution."""
    model, options = open_model(arguments)
    reference = open_images(arguments.reference, model.config.resolution, vae)
    count = arguments.num or min(reference.count or MAX_SAMPLES, MAX_SAMPLES)
    labels = labels_in_turn(parse_classes(None, model), count)
    identity = ModelIdentity.of_directory(arguments.model, arguments.autoguidance)
    protocol = SamplingProtocol.of(identity, options, labels="even")
    return DrawnImages(model.image_sampler(arguments.vae), labels, options), reference, protocol


def _found(
    arguments: argparse.Namespace, vae: LoadAutoencoder
) -> tuple[ImageSource, FoundImages, SamplingProtocol | None]:
    """Images that exist, the reference at their resolution, and how tools/sample.py drew them, where it did."""
    path, protocol = str(images_of(arguments.samples)), protocol_of(arguments.samples)
    resolution = resolution_of(path)
    samples = open_images(path, resolution, vae)
    reference = open_images(arguments.reference, resolution, vae)
    return EvenlySpaced(samples, arguments.num) if arguments.num else samples, reference, protocol


def _default_out(arguments: argparse.Namespace) -> Path:
    """Beside a model directory, not in it: the next export replaces the directory with all it holds."""
    if arguments.model:
        model = arguments.model.absolute()
        return model.with_name(f"{model.name}.evaluation.json")
    samples = arguments.samples
    return samples / "evaluation.json" if samples.is_dir() else samples.with_suffix(".evaluation.json")


def _extractor(arguments: argparse.Namespace, sampling: SamplingProtocol | None) -> Extractor:
    name = arguments.extractor or ("digits" if sampling and sampling.vae.split()[0] == "digits" else "inception")
    weights = {"inception": arguments.inception_weights, "dinov2": arguments.dinov2_weights}
    spec = {"name": name, "weights": weights[name]} if name in weights else name
    return EXTRACTORS.build(spec).load().to(arguments.device)

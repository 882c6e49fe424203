#!/usr/bin/env python
"""Score a model, or a folder of samples: tools/evaluate.py --model DIR --reference DIR_OR_SHARDS [--num N]"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from devices import open_device
from sampling_arguments import add_sampling_arguments, open_model, parse_classes, positive

from latentdebias.autoencoders import Autoencoder, load_autoencoder
from latentdebias.errors import run_tool
from latentdebias.evaluation import (
    EXTRACTORS,
    METRICS,
    DrawnImages,
    EvenlySpaced,
    Extractor,
    ImageSource,
    SamplingProtocol,
    evaluate,
    extract,
    open_images,
    record_of,
    resolution_of,
)
from latentdebias.files import check_output_file
from latentdebias.registry import load_plugins
from latentdebias.sampling.images import labels_in_turn

MAX_SAMPLES = 50_000
LoadAutoencoder = Callable[[str], Autoencoder]


def main() -> None:
    load_plugins(())
    arguments = _parse()
    out = arguments.out or _default_out(arguments)
    check_output_file(out)
    vae = functools.partial(load_autoencoder, device=open_device(arguments.device))
    samples, reference, sampling = (_drawn if arguments.model else _found)(arguments, vae)
    metrics = [METRICS.build(name) for name in arguments.metrics.split(",")]
    extractor = _extractor(arguments, sampling)
    scored = extract(samples, extractor, samples.count, "samples", samples.num_classes)
    references = extract(reference, extractor, reference.count, "reference", reference.num_classes)
    record = record_of(
        evaluate(scored, references, metrics),
        metrics,
        scored,
        references,
        samples_path=str(arguments.model or arguments.samples),
        reference_path=arguments.reference,
        extractor=extractor.identity,
        sampling=sampling,
    )
    record.write(out)
    print(f"{record.line()}\nwritten to {out}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--model", type=Path, metavar="DIR", help="a model directory, whose samples are drawn here")
    samples.add_argument("--samples", type=Path, metavar="DIR", help="images that exist: a folder or an .npz")
    parser.add_argument("--reference", required=True, metavar="DIR_OR_SHARDS", help="images, latent shards or an .npz")
    num = "samples, evenly over the classes; default all, or as many as references and at most 50,000 of a model"
    parser.add_argument("--num", type=positive, metavar="N", help=num)
    parser.add_argument("--metrics", default=",".join(METRICS.names()), help="default: all that apply")
    parser.add_argument("--extractor", help=f"one of {', '.join(EXTRACTORS.names())}; default: digits for its demo")
    parser.add_argument("--inception-weights", metavar="PATH", help="default: torch's hub cache")
    out = "default: evaluation.json in the folder of samples, MODEL.evaluation.json beside a model or file"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    add_sampling_arguments(parser)
    return parser.parse_args()


def _drawn(arguments: argparse.Namespace, vae: LoadAutoencoder) -> tuple[ImageSource, ImageSource, SamplingProtocol]:
    """What the model draws, as many of each class, and the reference at its resolution."""
    model, options = open_model(arguments)
    reference = open_images(arguments.reference, model.config.resolution, vae)
    count = arguments.num or min(reference.count, MAX_SAMPLES)
    labels = labels_in_turn(parse_classes(None, model), count)
    protocol = SamplingProtocol.of(arguments.model, options, model.config.autoencoder.id, model.config.ema)
    return DrawnImages(model.image_sampler(arguments.vae), labels, options), reference, protocol


def _found(arguments: argparse.Namespace, vae: LoadAutoencoder) -> tuple[ImageSource, ImageSource, None]:
    """Images that exist, and the reference at their resolution."""
    path = str(_image_folder(arguments.samples))
    resolution = resolution_of(path)
    samples = open_images(path, resolution, vae)
    reference = open_images(arguments.reference, resolution, vae)
    return EvenlySpaced(samples, arguments.num) if arguments.num else samples, reference, None


def _default_out(arguments: argparse.Namespace) -> Path:
    """Beside a model directory, not in it: the next export replaces the directory with all it holds."""
    if arguments.model:
        model = arguments.model.absolute()
        return model.with_name(f"{model.name}.evaluation.json")
    samples = arguments.samples
    return samples / "evaluation.json" if samples.is_dir() else samples.with_suffix(".evaluation.json")


def _image_folder(samples: Path) -> Path:
    """The images that tools/sample.py put beside its grid, or `samples` itself."""
    return samples / "images" if (samples / "images").is_dir() else samples


def _extractor(arguments: argparse.Namespace, sampling: SamplingProtocol | None) -> Extractor:
    name = arguments.extractor or ("digits" if sampling and sampling.vae == "digits" else "inception")
    spec = {"name": name, "weights": arguments.inception_weights} if name == "inception" else name
    return EXTRACTORS.build(spec).load().to(arguments.device)


if __name__ == "__main__":
    run_tool(main)

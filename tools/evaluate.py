#!/usr/bin/env python
"""Score a model, or a folder of samples: tools/evaluate.py --model DIR --reference DIR_OR_SHARDS [--num N]"""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sampling_arguments import add_sampling_arguments, draw_options, open_model
from torch import Tensor

from latentdebias.autoencoders import load_autoencoder
from latentdebias.data import find_images
from latentdebias.data.preprocess import decode_image
from latentdebias.errors import run_tool
from latentdebias.evaluation import (
    EXTRACTORS,
    METRICS,
    Extractor,
    ImageBatch,
    ImageSource,
    NpzImages,
    SamplingProtocol,
    evaluate,
    extract,
    open_images,
    record_of,
)
from latentdebias.sampling.images import DrawOptions, ImageSampler, labels_in_turn

MAX_SAMPLES = 50_000


@dataclass(frozen=True)
class DrawnImages:
    """Samples of a model as an `ImageSource`, drawn as they are asked for."""

    sampler: ImageSampler
    labels: Tensor
    options: DrawOptions

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int | None:
        return self.sampler.num_classes or None

    def __iter__(self) -> Iterator[ImageBatch]:
        start = 0
        for images in self.sampler.draw(self.labels, self.options):
            yield ImageBatch(images, self.labels[start : start + len(images)])
            start += len(images)


def main() -> None:
    arguments = _parse()
    metrics = [METRICS.build(name) for name in arguments.metrics.split(",")]
    options = draw_options(arguments)
    model = open_model(arguments) if arguments.model else None
    extractor = _extractor(arguments, model and model.config.autoencoder.id)
    resolution = model.config.resolution if model else _resolution_of(_image_folder(arguments.samples))
    vae = functools.partial(load_autoencoder, device=arguments.device)
    reference = open_images(arguments.reference, resolution, vae)
    samples: ImageSource
    if model:
        labels = labels_in_turn(list(range(max(model.config.num_classes, 1))), _count(arguments, reference))
        samples = DrawnImages(model.image_sampler(arguments.vae), labels, options)
    else:
        samples = open_images(str(_image_folder(arguments.samples)), resolution, vae)
    scored = extract(samples, extractor, arguments.num or samples.count, "samples", samples.num_classes)
    references = extract(reference, extractor, reference.count, "reference", reference.num_classes)
    record = record_of(
        evaluate(scored, references, metrics),
        metrics,
        scored,
        references,
        samples_path=str(arguments.model or arguments.samples),
        reference_path=arguments.reference,
        extractor=extractor.identity,
        sampling=_protocol(arguments, options, model.config.autoencoder.id) if model else None,
    )
    out = arguments.out or Path(arguments.model or arguments.samples) / "evaluation.json"
    record.write(out)
    print(f"{record.line()}\nwritten to {out}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--model", type=Path, metavar="DIR", help="a model directory, whose samples are drawn here")
    samples.add_argument("--samples", type=Path, metavar="DIR", help="images that exist: a folder or an .npz")
    parser.add_argument("--reference", required=True, metavar="DIR_OR_SHARDS", help="images, latent shards or an .npz")
    parser.add_argument("--num", type=int, metavar="N", help="samples; default as many as references, at most 50,000")
    parser.add_argument("--metrics", default=",".join(METRICS.names()), help="default: all that apply")
    parser.add_argument("--extractor", help=f"one of {', '.join(EXTRACTORS.names())}; default: digits for its demo")
    parser.add_argument("--inception-weights", metavar="PATH", help="default: torch's hub cache")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: evaluation.json beside what is scored")
    add_sampling_arguments(parser)
    return parser.parse_args()


def _extractor(arguments: argparse.Namespace, vae: str | None) -> Extractor:
    name = arguments.extractor or ("digits" if vae == "digits" else "inception")
    spec = {"name": name, "weights": arguments.inception_weights} if name == "inception" else name
    return EXTRACTORS.build(spec).load().to(arguments.device)


def _count(arguments: argparse.Namespace, reference: ImageSource) -> int:
    return arguments.num or min(reference.count, MAX_SAMPLES)


def _image_folder(samples: Path) -> Path:
    """The images that tools/sample.py put beside its grid, or `samples` itself."""
    return samples / "images" if (samples / "images").is_dir() else samples


def _resolution_of(samples: Path) -> int:
    """The side of the first image, to which the references are brought as well."""
    if samples.suffix == ".npz":
        return next(iter(NpzImages(str(samples), batch_size=1))).images.shape[-1]
    return min(decode_image(find_images(str(samples)).images[0].read()).size)


def _protocol(arguments: argparse.Namespace, options: DrawOptions, vae: str) -> SamplingProtocol:
    return SamplingProtocol(
        model=str(arguments.model),
        sampler=str(options.sampler),
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        vae=vae,
    )


if __name__ == "__main__":
    run_tool(main)

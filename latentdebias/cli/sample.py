"""Draw images of a model: tools/sample.py --model DIR --classes 3,7 --per-class 8 --guidance 1.5 --out DIR

Under torchrun, deepspeed or srun the same command draws the same images on many GPUs; run again, it resumes:
torchrun --nproc-per-node 8 tools/sample.py --model DIR --num-images 50000 --format npz --out DIR
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdebias import distributed
from latentdebias.cli.sampling_arguments import add_sampling_arguments, open_model, parse_classes, positive
from latentdebias.devices import share_cores
from latentdebias.drawing.image_sampler import (
    ImageSampler,
    labels_at_random,
    labels_by_class,
    labels_in_turn,
)
from latentdebias.drawing.sample_formats import SAMPLE_FORMATS
from latentdebias.drawing.sample_record import FORMAT_VERSION, settings_of, vae_of
from latentdebias.drawing.sample_set import GRID, TRAJECTORY, SampleSet, refuse_foreign_files, remove_sample_set
from latentdebias.drawing.trajectory import COLUMNS, Trajectory
from latentdebias.errors import UserError, run_tool
from latentdebias.files import check_output_folder, published
from latentdebias.models.model_directory import ModelConfig, fingerprint
from latentdebias.registry import load_plugins
from latentdebias.sampling import DrawOptions

EVEN, RANDOM, BY_CLASS = "even", "random", "by class"


def main() -> None:
    load_plugins(())
    arguments = _parse()
    _check(arguments)
    model, options = open_model(arguments)
    # The same image must give the same bytes on every run.
    torch.backends.cudnn.deterministic = True
    share_cores()
    classes = parse_classes(arguments.classes, model)
    labels = _labels(arguments, classes, options.seed)
    record = _record(arguments, model.config, options, classes, len(labels))
    formats = tuple(SAMPLE_FORMATS.build(name) for name in arguments.format)
    sampler = model.image_sampler(arguments.vae)
    if arguments.compile:
        sampler = sampler.compiled()
    if arguments.replace:
        remove_sample_set(arguments.out)
    samples = SampleSet(arguments.out, labels, options, formats, record, _class_names(model.config))
    samples.begin()
    trajectory = Trajectory(options.steps, arguments.trajectory)
    _draw(samples, dataclasses.replace(sampler, observe=trajectory))
    if arguments.trajectory and distributed.rank() == 0:
        _write_strip(arguments.out / TRAJECTORY, trajectory, sampler)
    _report(samples, samples.finish(model.config.resolution))


def _draw(samples: SampleSet, sampler: ImageSampler) -> None:
    try:
        samples.draw(sampler, distributed.rank(), distributed.world_size())
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--compile cannot compile the backbone here ({reason}). It needs a C++ compiler on a CPU and triton on a "
            f"GPU; install what is missing, or leave --compile out."
        ) from None


def _write_strip(path: Path, trajectory: Trajectory, sampler: ImageSampler) -> None:
    if not trajectory.x0:
        print(f"the images were drawn before, so there is no {path.name}; --replace draws them anew", file=sys.stderr)
        return
    with published(path) as file:
        trajectory.strip(sampler.pixels).save(file, "PNG")


def _record(
    arguments: argparse.Namespace, config: ModelConfig, options: DrawOptions, classes: list[int], count: int
) -> dict[str, Any]:
    """All that decides the bytes, and where the models were."""
    weaker = arguments.autoguidance
    return {
        "format_version": FORMAT_VERSION,
        "model": str(arguments.model),
        **fingerprint(arguments.model),
        "vae": vae_of(config.autoencoder),
        "ema": config.ema,
        "count": count,
        "labels": BY_CLASS if arguments.num is None else arguments.labels,
        "classes": classes,
        "formats": arguments.format,
        "compile": arguments.compile,
        "autoguidance": str(weaker) if weaker else None,
        "autoguidance_files": fingerprint(weaker) if weaker else None,
        **settings_of(options),
    }


def _report(samples: SampleSet, finished: bool) -> None:
    if finished:
        names = ", ".join(str(samples.out / each.output) for each in samples.formats)
        print(f"{len(samples.labels)} images in {names}, the grid in {samples.out / GRID}")
    else:
        rank, world_size = distributed.rank(), distributed.world_size()
        print(f"rank {rank} of {world_size} has drawn its images; the last rank to finish writes {samples.out / GRID}")


def _check(arguments: argparse.Namespace) -> None:
    check_output_folder(arguments.out)
    refuse_foreign_files(arguments.out)
    for name in arguments.format:
        SAMPLE_FORMATS.build(name)
    if arguments.labels == RANDOM and arguments.num is None:
        raise UserError("--labels random needs --num N, the number of images; --per-class N is of each class as many.")
    if arguments.replace and distributed.world_size() > 1:
        raise UserError(
            f"--replace is for one process: of {distributed.world_size()}, one could remove what another has drawn. "
            f"Remove the set first: rm -r {arguments.out}"
        )


def _labels(arguments: argparse.Namespace, classes: list[int], seed: int) -> Tensor:
    if arguments.num is None:
        return labels_by_class(classes, arguments.per_class)
    if arguments.labels == RANDOM:
        return labels_at_random(classes, arguments.num, seed)
    return labels_in_turn(classes, arguments.num)


def _class_names(config: ModelConfig) -> list[str]:
    return config.class_names or [str(label) for label in range(config.num_classes)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets grid.png and images/CLASS/N.png")
    classes = "class names or numbers, a name winning over the same number; default all"
    parser.add_argument("--classes", metavar="3,7", help=classes)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--per-class", type=positive, default=8, metavar="N")
    # The second name is for argparse in torchrun and deepspeed, which takes --num for a short form of its own options.
    num = "so many images over the classes, see --labels"
    amount.add_argument("--num", "--num-images", type=positive, metavar="N", help=num)
    labels = "how --num is spread: even, the classes in turn, or random, each image's class drawn from the seed"
    parser.add_argument("--labels", choices=(EVEN, RANDOM), default=EVEN, help=labels)
    formats = "one or several of png (images/), webdataset (webdataset/*.tar) and npz (samples.npz, as ADM's evaluator)"
    parser.add_argument("--format", type=_names, default=["png"], metavar="png,npz", help=formats)
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    parser.add_argument("--replace", action="store_true", help="draw anew over the set that is in the folder")
    strip = f"also write {TRAJECTORY}: the first images' estimates of x0 at N of the steps, {COLUMNS} by default"
    parser.add_argument("--trajectory", type=positive, nargs="?", default=0, const=COLUMNS, metavar="N", help=strip)
    add_sampling_arguments(parser)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return sorted(set(text.split(",")))


if __name__ == "__main__":
    run_tool(main)

"""`latentdebias sample`: draw a set of images of a model, with the record of how it was drawn."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdebias import distributed
from latentdebias.commands.opened_model import open_model, parse_classes
from latentdebias.commands.terminal import print_next
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
from latentdebias.drawing.trajectory import Trajectory
from latentdebias.errors import UserError
from latentdebias.files import check_output_folder, published
from latentdebias.models.model_directory import ModelConfig, fingerprint
from latentdebias.registry import load_plugins
from latentdebias.sampling import DrawOptions

EVEN, RANDOM, BY_CLASS = "even", "random", "by class"


def draw_sample_set(arguments: argparse.Namespace) -> None:
    """Draw this process's share of the set; the process that finishes last writes the grid and the formats."""
    load_plugins(arguments.imports or ())
    _check(arguments)
    model, options = open_model(arguments)
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
    """The record of the sample set: everything that decides its bytes, and the paths of the models."""
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
        print_next("evaluate", "--samples", samples.out, "--reference", "IMAGES")
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

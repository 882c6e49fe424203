#!/usr/bin/env python
"""Draw images of a model: tools/sample.py --model DIR --classes 3,7 --per-class 8 --guidance 1.5 --out DIR"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from sampling_arguments import add_sampling_arguments, open_model, parse_classes, positive

from latentdebias.errors import run_tool
from latentdebias.files import check_output_file, check_output_folder, published
from latentdebias.registry import load_plugins
from latentdebias.sampling.images import labels_by_class, labels_in_turn
from latentdebias.sampling.sample_folder import refuse_foreign_images, write_samples
from latentdebias.sampling.trajectory import COLUMNS, Trajectory

GRID_COLUMNS = 8
TRAJECTORY = "trajectory.png"


def main() -> None:
    load_plugins(())
    arguments = _parse()
    out = arguments.out
    check_output_folder(out)
    if arguments.npz:
        check_output_file(arguments.npz)
    refuse_foreign_images(out)
    model, options = open_model(arguments)
    classes = parse_classes(arguments.classes, model)
    if arguments.num is None:
        labels, columns = labels_by_class(classes, arguments.per_class), arguments.per_class
    else:
        labels, columns = labels_in_turn(classes, arguments.num), GRID_COLUMNS
    record = {"model": str(arguments.model), "count": len(labels), "classes": classes, **asdict(options)}
    if arguments.autoguidance:
        record["autoguidance"] = str(arguments.autoguidance)
    trajectory = Trajectory(options.steps, arguments.trajectory)
    sampler = replace(model.image_sampler(arguments.vae), observe=trajectory)
    write_samples(out, sampler.draw(labels, options), labels, columns, record, arguments.npz)
    (out / TRAJECTORY).unlink(missing_ok=True)  # an earlier set's
    if trajectory.x0:
        with published(out / TRAJECTORY) as file:
            trajectory.strip(sampler.pixels).save(file, "PNG")
    print(f"{len(labels)} images in {out / 'images'}, the grid in {out / 'grid.png'}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets grid.png and images/CLASS/N.png")
    classes = "class names or numbers, a name winning over the same number; default all"
    parser.add_argument("--classes", metavar="3,7", help=classes)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--per-class", type=positive, default=8, metavar="N")
    amount.add_argument("--num", type=positive, metavar="N", help="so many images, spread evenly over the classes")
    npz = "also write ADM's format: arr_0 images, arr_1 labels"
    parser.add_argument("--npz", type=_npz_path, metavar="FILE.npz", help=npz)
    strip = f"also write {TRAJECTORY}: the first images' estimates of x0 at N of the steps, {COLUMNS} by default"
    parser.add_argument("--trajectory", type=positive, nargs="?", default=0, const=COLUMNS, metavar="N", help=strip)
    add_sampling_arguments(parser)
    return parser.parse_args()


def _npz_path(text: str) -> Path:
    if not text.endswith(".npz"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .npz")
    return Path(text)


if __name__ == "__main__":
    run_tool(main)

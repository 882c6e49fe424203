#!/usr/bin/env python
"""Draw images of a model: tools/sample.py --model DIR --classes 3,7 --per-class 8 --guidance 1.5 --out DIR"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sampling_arguments import add_sampling_arguments, draw_options, open_model, parse_classes
from torch import Tensor

from latentdebias.errors import UserError, run_tool
from latentdebias.sampling.images import labels_by_class, labels_in_turn, save_grid, save_png

RECORD = "sampling.json"
GRID_COLUMNS = 8
MAX_GRID = 100


def main() -> None:
    arguments = _parse()
    options = draw_options(arguments)
    model = open_model(arguments)
    classes = parse_classes(arguments.classes, model)
    if arguments.num is None:
        labels, columns = labels_by_class(classes, arguments.per_class), arguments.per_class
    else:
        labels, columns = labels_in_turn(classes, arguments.num), GRID_COLUMNS
    sampler = model.image_sampler(arguments.vae)
    _refuse_foreign(arguments.out)
    images = torch.cat(list(sampler.draw(labels, options)))
    _write(arguments.out, images, labels)
    save_grid(images[:MAX_GRID], columns, arguments.out / "grid.png")
    record = {"model": str(arguments.model), "count": len(labels), "classes": classes, **asdict(options)}
    (arguments.out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    if arguments.npz:
        np.savez(arguments.npz, arr_0=images.permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy())
    print(f"{len(images)} images in {arguments.out / 'images'}, the grid in {arguments.out / 'grid.png'}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets grid.png and images/CLASS/N.png")
    parser.add_argument("--classes", metavar="3,7", help="class numbers or names; default all")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--per-class", type=_positive, default=8, metavar="N")
    amount.add_argument("--num", type=_positive, metavar="N", help="so many images, spread evenly over the classes")
    parser.add_argument("--npz", type=Path, metavar="FILE", help="also write ADM's format: arr_0 images, arr_1 labels")
    add_sampling_arguments(parser)
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _refuse_foreign(out: Path) -> None:
    """Images of an earlier call are replaced, anything else is left alone."""
    if (out / "images").exists() and not (out / RECORD).exists():
        raise UserError(f"{out / 'images'} exists and was not written by tools/sample.py; choose another --out.")


def _write(out: Path, images: Tensor, labels: Tensor) -> None:
    shutil.rmtree(out / "images", ignore_errors=True)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = out / "images" / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        save_png(image, folder / f"{index:06d}.png")


if __name__ == "__main__":
    run_tool(main)

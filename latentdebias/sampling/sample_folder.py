"""A folder of drawn images: `images/CLASS/N.png`, `grid.png` of the first, and `sampling.json`, how they were drawn."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdebias.errors import UserError
from latentdebias.files import publish, published, published_folder
from latentdebias.sampling.images import save_grid, save_png

IMAGES = "images"
RECORD = "sampling.json"
GRID = "grid.png"
MAX_GRID = 100


def refuse_foreign_images(out: Path) -> None:
    """Raise `UserError` where `out` holds images that `write_samples` did not write, for it would replace them."""
    if (out / IMAGES).exists() and not (out / RECORD).exists():
        raise UserError(f"{out / IMAGES} exists and was not written by tools/sample.py; choose another --out.")


def write_samples(
    out: Path,
    batches: Iterable[Tensor],
    labels: Tensor,
    columns: int,
    record: dict[str, Any],
    npz: Path | None = None,
) -> None:
    """Write batches `(B, 3, H, W)` uint8 of images for `labels` `(N,)` as they are drawn, and a grid of `columns`.

    `npz` also gets them in ADM's format: `arr_0` uint8 `(N, H, W, 3)`, `arr_1` the labels. The images of an earlier
    call are replaced once the new ones are whole; until then they stay, and `UserError` says why a write failed.
    """
    refuse_foreign_images(out)
    first: list[Tensor] = []
    arrays: list[np.ndarray] = []
    with published_folder(out / IMAGES) as folder:
        drawn = (image for batch in batches for image in batch)
        for index, (image, label) in enumerate(zip(drawn, labels.tolist(), strict=True)):
            class_folder = folder / f"{label:04d}"
            class_folder.mkdir(exist_ok=True)
            save_png(image, class_folder / f"{index:06d}.png")
            if index < MAX_GRID:
                first.append(image)
            if npz:
                arrays.append(image.permute(1, 2, 0).numpy())
        if npz:
            with published(npz) as file:
                np.savez(file, arr_0=np.stack(arrays), arr_1=labels.numpy())
        # Before the images take their place: without a record beside them they would be taken for foreign.
        publish(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        save_grid(torch.stack(first), columns, out / GRID)

"""The one style of all figures, legible at half their size, and the file that a finding is written to."""

import csv
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdebias.analysis.figure import Finding, Table
from latentdebias.errors import UserError, pip_install
from latentdebias.files import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

# Okabe and Ito's colours, which people who are colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#B8A800", "#17BECF")
# Weightings that coincide, and more lines than colours, are told apart by their dashes.
DASHES = ("-", "--", ":", "-.")
STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 16,
    "axes.titlesize": 17,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "lines.linewidth": 2.4,
    "legend.frameon": False,
    "legend.fontsize": 14,
    "image.interpolation": "nearest",
}


def styled() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the project's style; `UserError` where matplotlib is not installed."""
    try:
        import matplotlib
        from cycler import cycler
    except ImportError:
        install = pip_install("analyze")
        raise UserError(f"Figures are drawn with matplotlib, which is not installed. Install it: {install}") from None
    settings: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    return matplotlib.rc_context(settings)


def panels(rows: int, columns: int, width: float = 7.0, height: float = 5.5) -> tuple["Picture", list[Any]]:
    """A picture with `rows` x `columns` axes, each of `width` x `height` inches, in the order of reading."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(columns * width, rows * height))
    return picture, list(picture.subplots(rows, columns, squeeze=False).flat)


def mosaic(layout: list[Any], width: float, heights: list[float]) -> tuple["Picture", dict[str, Any]]:
    """A picture `width` inches wide whose rows are `heights` inches high, with the axes that `layout` names."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(width, sum(heights)))
    return picture, picture.subplot_mosaic(layout, height_ratios=heights)


def show_tiles(axes: Any, images: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw images (R, C, 3, H, W) uint8 as a grid with the names of its rows and columns beside it."""
    _, _, _, height, width = images.shape
    gap = max(1, width // 16)
    tiles = torch.full((len(rows), len(columns), 3, height + gap, width + gap), 255, dtype=torch.uint8)
    tiles[..., :height, :width] = images.cpu()
    axes.imshow(tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy())
    axes.set_xticks([(i + 0.5) * (width + gap) - gap / 2 for i in range(len(columns))], columns)
    axes.set_yticks([(i + 0.5) * (height + gap) - gap / 2 for i in range(len(rows))], rows)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def write(finding: Finding, out: Path, name: str) -> None:
    """Write `name`.png and the CSV files of a finding into the folder `out`, and print its sentence."""
    out.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    # Without the version of matplotlib, which would change the bytes.
    finding.picture.savefig(image, format="png", metadata={"Software": None})
    publish(out / f"{name}.png", image.getvalue())
    for stem, table in {name: finding.table, **finding.others}.items():
        publish(out / f"{stem}.csv", _csv(table))
    print(f"{name}: {finding.line} ({out / name}.png, .csv)")


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([[_cell(value) for value in row] for row in table.rows])
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """A number with 8 significant digits, None as an empty cell, anything else as it is."""
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value

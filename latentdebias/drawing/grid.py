"""How a grid of images is laid out: a row a class, the class's name beside it."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MAX_ROWS = 10
MAX_COLUMNS = 10
COLUMNS_WITHOUT_CLASSES = 8
SMALLEST_FONT = 16
FONTS_PER_ROW = 10
MARGIN = 8
LONGEST_NAME = 24


def rows_of_classes(labels: Tensor) -> list[list[int]]:
    """The indices of the first images of the first classes in `labels` `(N,)`, a row a class."""
    rows: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        if label not in rows and len(rows) == MAX_ROWS:
            continue
        row = rows.setdefault(label, [])
        if len(row) < MAX_COLUMNS:
            row.append(index)
    return list(rows.values())


def rows_in_order(count: int) -> list[list[int]]:
    """The indices of the first of `count` images, in rows of equal length."""
    shown = range(min(count, MAX_ROWS * COLUMNS_WITHOUT_CLASSES))
    return [list(shown[start : start + COLUMNS_WITHOUT_CLASSES]) for start in shown[::COLUMNS_WITHOUT_CLASSES]]


def beside_rows(grid: Image.Image, names: Sequence[str]) -> Image.Image:
    """The grid with a name to the left of each of its rows; long names are cut."""
    row_height = grid.height / len(names)
    font = ImageFont.load_default(max(SMALLEST_FONT, row_height / FONTS_PER_ROW))
    texts = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME].rstrip()}..." for name in names]
    strip = math.ceil(max(font.getlength(text) for text in texts)) + 2 * MARGIN
    whole = Image.new("RGB", (strip + grid.width, grid.height), "white")
    whole.paste(grid, (strip, 0))
    draw = ImageDraw.Draw(whole)
    for row, text in enumerate(texts):
        draw.text((strip - MARGIN, (row + 0.5) * row_height), text, fill="black", font=font, anchor="rm")
    return whole

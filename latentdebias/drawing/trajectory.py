"""The estimates of x0 along a trajectory: those that the sampler took its own steps from, as a strip of pictures."""

from collections.abc import Callable

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latentdebias.drawing.image_sampler import grid_image

COLUMNS, ROWS = 8, 4
FONTS_PER_TILE = 7


class Trajectory:
    """An `Observe` that keeps the estimates of the first `rows` images of the first batch drawn, at `columns` steps.

    The steps are evenly spaced, the first and the last among them; of Heun's two estimates within a step it keeps the
    first. Each of `x0` is `(rows, C, h, w)` fp32, normalised, at the timestep in `t`.
    """

    def __init__(self, steps: int, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.chosen = chosen_steps(steps, columns)
        self.rows = rows
        self.t: list[float] = []
        self.x0: list[Tensor] = []

    def __call__(self, x0: Tensor, t: Tensor, step: int) -> None:
        if len(self.x0) < len(self.chosen) and step == self.chosen[len(self.x0)]:
            self.t.append(t.item())
            self.x0.append(x0[: self.rows].float())

    def strip(self, pixels: Callable[[Tensor], Tensor]) -> Image.Image:
        """A row an image and a column a step, its timestep above; `pixels` makes latents images `(B, 3, H, W)` uint8.

        Call it after a batch has been drawn.
        """
        columns = [pixels(x0).cpu() for x0 in self.x0]
        grid = grid_image(torch.stack(columns, dim=1).flatten(0, 1), len(columns))
        return below_titles(grid, [f"t = {t:.4g}" for t in self.t])


def chosen_steps(steps: int, columns: int) -> list[int]:
    """`columns` of `steps` steps, evenly spaced from the first to the last; all of them where there are fewer."""
    return torch.linspace(steps - 1, 0, min(columns, steps)).round().int().flip(0).tolist()


def below_titles(grid: Image.Image, titles: list[str]) -> Image.Image:
    """The grid with a title above each of its columns."""
    width = grid.width / len(titles)
    size = width / FONTS_PER_TILE
    header = round(1.5 * size)
    whole = Image.new("RGB", (grid.width, header + grid.height), "white")
    whole.paste(grid, (0, header))
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size)
    for column, title in enumerate(titles):
        draw.text(((column + 0.5) * width, header / 2), title, fill="black", font=font, anchor="mm")
    return whole

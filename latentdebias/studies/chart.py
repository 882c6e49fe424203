"""A line chart as inline SVG, whose colours follow the page's light or dark scheme."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 46
COLOURS = 10
"""The page's style defines as many colours of lines, `--line0` and so on."""
DASHES = ("none", "7 3", "2 3")
MARKERS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-4-4h8v8h-8z", "M0-5L5 4H-5z", "M0-5L5 0L0 5L-5 0z")


@dataclass(frozen=True)
class Point:
    """A point of a line: the name of its place on the x axis, its value, and half its error bar's length, if any."""

    x: str
    y: float
    error: float = math.nan


def line_chart(lines: Mapping[str, Sequence[Point]], x_name: str, y_name: str) -> str:
    """An SVG of `lines` by name, with a legend; the places on the x axis are equally far apart.

    The y axis is logarithmic where all values are positive. A line without a finite value is left out; with none left,
    the chart is empty.
    """
    lines = {name: line for name, line in lines.items() if any(math.isfinite(point.y) for point in line)}
    points = [point for line in lines.values() for point in line if math.isfinite(point.y)]
    if not points:
        return ""
    places = list(dict.fromkeys(point.x for line in lines.values() for point in line))
    axis = _Axis.over([point.y for point in points])
    step = (WIDTH - LEFT - RIGHT) / max(len(places), 1)
    x = {name: LEFT + step * (index + 0.5) for index, name in enumerate(places)}
    parts = [_grid(axis, x, x_name, y_name)]
    for index, line in enumerate(lines.values()):
        drawn = [point for point in line if math.isfinite(point.y)]
        parts.append(_line(index, [(x[point.x], point) for point in drawn], axis))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(f"{y_name} by {x_name}")}">'
    return f"<figure>{svg}{''.join(parts)}</svg><figcaption>{_legend(lines)}</figcaption></figure>"


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float]) -> "_Axis":
        low, high = min(values), max(values)
        if low > 0:
            return cls(low / 1.15, high * 1.15, True)
        margin = 0.08 * (high - low) or 1.0
        return cls(low - margin, high + margin, False)

    def __call__(self, value: float) -> float:
        """The y coordinate of `value`, kept inside the plot."""
        low, high, value = (math.log(max(v, self.low)) if self.logarithmic else v for v in (self.low, self.high, value))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        """Round values inside the axis, 1, 2 and 5 times powers of ten where it is logarithmic."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) > 2:
                return inside
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough)
        return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _grid(axis: _Axis, x: Mapping[str, float], x_name: str, y_name: str) -> str:
    parts = []
    for value in axis.ticks():
        y = axis(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for name, place in x.items():
        parts.append(
            f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{html.escape(name)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_name)}</text>')
    turn = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    parts.append(f'<text transform="{turn}" text-anchor="middle">{html.escape(y_name)}</text>')
    return "".join(parts)


def _style(index: int) -> str:
    dash = DASHES[index // COLOURS % len(DASHES)]
    return f'style="--line:var(--line{index % COLOURS});stroke-dasharray:{dash}"'


def _line(index: int, points: Sequence[tuple[float, Point]], axis: _Axis) -> str:
    path = "".join(f"{'L' if number else 'M'}{x:.1f} {axis(point.y):.1f}" for number, (x, point) in enumerate(points))
    bars = "".join(f"M{x:.1f} {axis(p.y - p.error):.1f}V{axis(p.y + p.error):.1f}" for x, p in points if p.error > 0)
    marker = MARKERS[index % len(MARKERS)]
    marks = "".join(
        f'<path class="mark" transform="translate({x:.1f} {axis(p.y):.1f})" d="{marker}"/>' for x, p in points
    )
    return f'<g {_style(index)}><path class="line" d="{path}"/><path class="bar" d="{bars}"/>{marks}</g>'


def _legend(lines: Mapping[str, Sequence[Point]]) -> str:
    keys = []
    for index, name in enumerate(lines):
        mark = f'<path class="mark" transform="translate(14 6)" d="{MARKERS[index % len(MARKERS)]}"/>'
        key = f'<svg viewBox="0 0 28 12" {_style(index)}><path class="line" d="M0 6H28"/>{mark}</svg>'
        keys.append(f'<span class="key">{key}{html.escape(name)}</span>')
    return "".join(keys)

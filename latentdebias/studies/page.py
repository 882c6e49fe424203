"""The report as one HTML page, which holds its style, its pictures and its charts, and loads nothing."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentdebias.studies.tables import Table

LIGHT = ["#0b62b8", "#c2410c", "#15803d", "#a21caf", "#b45309", "#0e7490", "#be123c", "#4d7c0f", "#6d28d9", "#525252"]
DARK = ["#6cb2f7", "#fb923c", "#4ade80", "#e879f9", "#fbbf24", "#22d3ee", "#fb7185", "#a3e635", "#a78bfa", "#d4d4d4"]


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--line{index}:{colour};" for index, colour in enumerate(colours))


STYLE = f"""
:root {{ color-scheme: light dark; --text:#1c1c1c; --faint:#5f5f5f; --back:#fff; --rule:#d9d9d9; --bad:#b00020;
  {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --text:#e8e8e8; --faint:#a3a3a3; --back:#151515; --rule:#3a3a3a;
  --bad:#ff8a80; {_variables(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1200px; padding: 1rem; font: 16px/1.45 system-ui, sans-serif; color: var(--text);
  background: var(--back); }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }} h3 {{ font-size: 1rem; }}
p, dd {{ overflow-wrap: anywhere; }} .note, figcaption {{ color: var(--faint); font-size: .875rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top;
  white-space: nowrap; }}
th:first-child, td:first-child {{ position: sticky; left: 0; background: var(--back); font-weight: 600; }}
td.best {{ font-weight: 700; }}
.charts, .pictures {{ display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }}
figure {{ margin: 0; }} figure > svg {{ width: 100%; height: auto; max-width: 600px; display: block; }}
svg text {{ font-size: 13px; fill: var(--text); }}
.grid {{ stroke: var(--rule); }} .line, .bar {{ fill: none; stroke: var(--line); stroke-width: 2; }}
.bar {{ stroke-width: 1; stroke-dasharray: none; }} .mark {{ fill: var(--line); }}
.key {{ display: inline-block; margin: .15rem 1rem .15rem 0; }} 
.key svg {{ width: 28px; height: 12px; margin-right: .4rem; }}
.strip {{ margin: 0 0 .5rem; }} .strip img {{ display: block; width: 100%; image-rendering: pixelated; }}
.failed {{ color: var(--bad); }}
details {{ margin: .6rem 0; }} summary {{ cursor: pointer; font-weight: 600; }}
dt {{ font-weight: 600; margin-top: .7rem; }} dd {{ margin: 0; }}
code {{ font: .8125rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }}
"""


def page(title: str, sections: Sequence[str]) -> bytes:
    """The whole page of `sections`, which are HTML."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    )
    body = f"<h1>{html.escape(title)}</h1>{''.join(sections)}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'.encode()


def section(title: str, *parts: str) -> str:
    """A section of the page under its heading."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def folded(title: str, *parts: str) -> str:
    """A part of the page that shows its title alone until it is opened."""
    return f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}</details>"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{html.escape(text)}</p>"


def html_table(table: Table) -> str:
    """A table with its title and its note; a wide one is scrolled on its own, with its first column in sight."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.header)
    rows = "".join(
        f"<tr>{''.join(_cell(text, (i, j) in table.best) for j, text in enumerate(row))}</tr>"
        for i, row in enumerate(table.rows)
    )
    title, note = html.escape(table.title), html.escape(table.note)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h3>{title}</h3><div class="wide">{body}</div><p class="note">{note}</p>'


def _cell(text: str, best: bool) -> str:
    return f"<td{' class=best' * best}>{html.escape(text)}</td>"


def strips(title: str, pictures: Mapping[str, Path]) -> str:
    """A block of pictures under one another, each with its name."""
    shown = "".join(
        f'<figure class="strip"><figcaption>{html.escape(name)}</figcaption><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for name, path in pictures.items()
    )
    return f"<div><h3>{html.escape(title)}</h3>{shown}</div>"


def definitions(entries: Sequence[tuple[str, str, bool]]) -> str:
    """A list of names, what is said of each, and whether that is a failure; `code` in backquotes is set as such."""
    parts = []
    for name, text, failed in entries:
        said = "".join(
            f"<code>{html.escape(part)}</code>" if index % 2 else html.escape(part)
            for index, part in enumerate(text.split("`"))
        )
        parts.append(f"<dt{' class=failed' * failed}>{html.escape(name)}</dt><dd>{said}</dd>")
    return f"<dl>{''.join(parts)}</dl>"

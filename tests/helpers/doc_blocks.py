"""The fenced blocks of a Markdown page, and the commands of ours in those for the shell.

A block below a line `<!-- needs: WHAT -->` is not run by the tests; its commands are parsed.
"""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / name for name in ("shards", "examples")]
PAGES = sorted(path for folder in (ROOT, ROOT / "docs", *FOLDERS) for path in folder.glob("*.md"))
FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^\n]+) -->\n)?```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LAUNCHED = re.compile(r"latentdebias\.cli\.(\w+)|(?:\S*/)?tools/(\w+)\.py")


@dataclass(frozen=True)
class Block:
    """One fenced block; `needs` is None where the tests run it, `title` names the file that a block of YAML is."""

    language: str
    text: str
    needs: str | None
    title: str | None


def blocks(page: Path) -> list[Block]:
    return [Block(**match.groupdict()) for match in FENCE.finditer(page.read_text())]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block for the shell; comments are left out, `A && B` are two."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    joined = [word for line in lines for word in (*line, "&&")]
    found: list[list[str]] = [[]]
    for word in joined:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The name of the command of ours that a command line starts, with its arguments; None where it starts none."""
    for position, word in enumerate(words):
        if word == "latentdebias" and position + 1 < len(words):
            return words[position + 1], words[position + 2 :]
        if match := LAUNCHED.fullmatch(word):
            return match[1] or match[2], words[position + 1 :]
    return None


def site_pages():
    """The module docs/pages.py, with which mkdocs builds the site."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(name: str, arguments: list[str]):
    """The arguments as the command's own parser reads them; SystemExit where it refuses them."""
    parsers = site_pages().parsers()
    if arguments and f"{name} {arguments[0]}" in parsers:
        return parsers[f"{name} {arguments[0]}"].parse_args(arguments[1:])
    return parsers[name].parse_args(arguments)

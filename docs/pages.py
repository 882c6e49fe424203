"""What `mkdocs build` adds to docs/: pages that are other files of the repository or come from the code.

Links are written for the plain repository, relative to their file. Here they become links within the site; a file that
is no page, such as a script, is copied to files/ when a page links to it. Nothing here imports torch.
"""

import argparse
import ast
import importlib
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# Pages of the site that are files elsewhere in the repository.
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "shards.md": "shards/README.md",
    "examples.md": "examples/README.md",
    "options.md": "configs/base.yaml",
}
# The pages of the API reference: of a package all names in its `__all__`; after a colon, one name of a module.
API = {
    "index": ("Diffusion and models", ["latentdebias", "latentdebias.models.model_directory:ModelConfig"]),
    "diffusion": ("Objectives", ["latentdebias.diffusion", "latentdebias.diffusion.schedules"]),
    "weightings": ("Weightings", ["latentdebias.diffusion.weightings"]),
    "timesteps": ("Timesteps", ["latentdebias.diffusion.timesteps"]),
    "backbones": ("Backbones", ["latentdebias.backbones"]),
    "data": (
        "Images, latents, shards",
        [
            "latentdebias.autoencoders",
            "latentdebias.shards.reader:LatentShards",
            "latentdebias.shards.posterior:draw_latents",
            "latentdebias.batches",
        ],
    ),
    "training": ("Configs, training, hooks", ["latentdebias.config", "latentdebias.training.hooks"]),
    "sampling": ("Sampling", ["latentdebias.sampling"]),
    "evaluation": ("Scores", ["latentdebias.evaluation.metrics", "latentdebias.evaluation.extractors"]),
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")
# What a browser fetches by itself: links that a reader may follow are not among it.
LOADED_FROM_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?(?:https?:)?//[^>]*>"""
    r"""|(?:url\(|@import\s)["']?(?:https?:)?//[^)]*"""
)
NEEDS = re.compile(r"^<!-- needs: (.+) -->$", re.MULTILINE)


def on_files(files, config):
    """Add the generated pages, and the files of the repository that any page links to."""
    from mkdocs.structure.files import File

    texts = {uri: (ROOT / path).read_text() for uri, path in ELSEWHERE.items()}
    texts |= {"commands.md": commands_page(), "options.md": options_page(), **api_pages()}
    for uri, text in texts.items():
        files.append(File.generated(config, uri, content=text))
    for page in list(files.documentation_pages()):
        for path in linked(page.content_string, page.src_uri):
            if (ROOT / path).is_file() and not files.get_file_from_path(site_path(path)):
                files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links of the site, and marks of needs into a visible line."""
    uri = page.file.src_uri

    def link(match: re.Match[str]) -> str:
        target = posixpath.relpath(site_path(resolved(match[2], uri)), posixpath.dirname(uri) or ".")
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return NEEDS.sub(r'<p class="needs">needs \1</p>', outside_of_code(markdown, lambda text: LINK.sub(link, text)))


def on_post_build(config):
    """Fail where a page of the site would load anything from elsewhere: it must read the same without a network."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := LOADED_FROM_ELSEWHERE.search(path.read_text())):
            raise SystemExit(
                f"error: {path} loads {found[0]!r} from elsewhere; put the file into docs/, or leave it out."
            )


def outside_of_code(markdown: str, change) -> str:
    """The text with `change` applied to what lies outside of fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def linked(markdown: str, uri: str) -> Iterator[str]:
    """The files of the repository that a page links to, as paths from its root."""
    found: list[str] = []
    outside_of_code(markdown, lambda text: found.extend(match[2] for match in LINK.finditer(text)) or text)
    return (resolved(target, uri) for target in found)


def resolved(target: str, uri: str) -> str:
    """The path from the repository's root that a link of the page `uri` leads to; a folder is its README.md."""
    if uri.startswith("api/"):
        return posixpath.join("docs", posixpath.normpath(posixpath.join(posixpath.dirname(uri), target)))
    home = ELSEWHERE.get(uri, f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    pages = {file: uri for uri, file in ELSEWHERE.items()}
    return pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command and subcommand by its words, such as `encode verify`."""
    from latentdebias.cli import COMMANDS, analyze, encode, evaluate, study

    found: dict[str, argparse.ArgumentParser] = {}
    more = {
        "analyze": {name: analyze.parser(name) for name in analyze.FIGURES},
        "encode": {name: build() for name, build in encode.PARSERS.items()},
        "evaluate": {"compare": evaluate.compare_parser(), "colour-shift": evaluate.colour_shift_parser()},
        "study": {name: study.command_parser(name) for name in study.COMMANDS},
    }
    for name in COMMANDS:
        module = importlib.import_module(f"latentdebias.cli.{name}")
        found[name] = module.overview() if name == "analyze" else module.parser()
        subparsers = [each.choices for each in found[name]._actions if isinstance(each, argparse._SubParsersAction)]
        found |= {f"{name} {word}": each for word, each in {**more.get(name, {}), **dict(*subparsers)}.items()}
    return found


def commands_page() -> str:
    """The command reference: every command with its arguments, from the parsers themselves."""
    from latentdebias.cli import COMMANDS

    lines = [
        "# Commands",
        "",
        "`latentdebias COMMAND`; in a checkout also `python tools/COMMAND.py`, and anywhere "
        "`python -m latentdebias.cli.COMMAND`, the form that launchers of several processes take. Every command says "
        "this and no more with `--help`.",
        "",
        *[f"- [`{name}`](#{name}): {what}" for name, what in COMMANDS.items()],
    ]
    for words, parser in parsers().items():
        level = "##" if " " not in words else "###"
        lines += ["", f"{level} {words} {{#{words.replace(' ', '-')}}}", "", escaped(parser.description or ""), ""]
        lines += [f"- {signature(parser, action)}: {meaning(parser, action)}" for action in shown(parser)]
    return "\n".join(lines) + "\n"


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [each for each in parser._actions if each.help != argparse.SUPPRESS and not isinstance(each, hidden)]


def signature(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """How an argument is written, such as `--steps N`."""
    formatter, names = parser._get_formatter(), action.option_strings
    if not names:
        return f"`{formatter._format_args(action, formatter._get_default_metavar_for_positional(action))}`"
    values = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    return ", ".join(f"`{name} {values}`" if action.nargs != 0 else f"`{name}`" for name in names)


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """What an argument's help says, and whether it must be given."""
    text = escaped(parser._get_formatter()._expand_help(action)) if action.help else ""
    if not action.help and action.default not in (None, argparse.SUPPRESS):
        text = f"default {action.default}"
    return ("**required**; " if action.required and action.option_strings else "") + text


def escaped(text: str) -> str:
    """Plain text as Markdown that shows the same."""
    return re.sub(r"([\\`*_<\[\]{}$])", r"\\\1", text)


def options_page() -> str:
    """The keys of a run config, as `configs/base.yaml` lists them."""
    return (
        "# Options of a run\n\n"
        "The file `configs/base.yaml`, written from the options' own definitions. A run file holds what differs from "
        "it, and the command line has the last word: `--set training.steps=1000`.\n\n"
        f"```yaml\n{(ROOT / 'configs' / 'base.yaml').read_text()}```\n"
    )


def api_pages() -> dict[str, str]:
    """The pages of the API reference; mkdocstrings fills in signatures and docstrings."""
    pages, seen = {}, set()
    for name, (title, sources) in API.items():
        names = [each for source in sources for each in public(source) if each not in seen]
        seen.update(names)
        pages[f"api/{name}.md"] = f"# {title}\n\n" + "".join(f"::: {each}\n\n" for each in dict.fromkeys(names))
    others = "".join(f"- [{title}]({name}.md)\n" for name, (title, _) in API.items() if name != "index")
    pages["api/index.md"] = pages["api/index.md"].replace("\n\n", f"\n\nMore of the API:\n\n{others}\n", 1)
    return pages


def public(source: str) -> list[str]:
    """The public names of a package, or the one of `MODULE:NAME`, each by the module that defines it.

    Registries and other constants are left out: the parts in them are classes of their own.
    """
    module, _, name = source.partition(":")
    if name:
        return [f"{module}.{name}"]
    statements = [each for each in tree_of(module).body if isinstance(each, ast.Assign)]
    [listed] = [ast.literal_eval(each.value) for each in statements if getattr(each.targets[0], "id", "") == "__all__"]
    return [home(module, name) for name in listed if not name.isupper() and name not in ("__version__", "backbones")]


def home(module: str, name: str) -> str:
    """The full name of what `module` calls `name`, where it is defined; a submodule is a name as well."""
    if tree_of(f"{module}.{name}"):
        return f"{module}.{name}"
    imports = [each for each in ast.walk(tree_of(module)) if isinstance(each, ast.ImportFrom)]
    names = [(each.module or "", alias.name) for each in imports for alias in each.names]
    sources = [source for source, imported in names if imported == name and source.startswith("latentdebias.")]
    return home(sources[0], name) if sources else f"{module}.{name}"


def tree_of(module: str) -> ast.Module | None:
    """The syntax tree of a module or package; None where there is none of this name."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text()) if file.is_file() else None

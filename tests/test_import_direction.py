"""The rooms import in one direction; a circle or a shortcut upwards fails here."""

import ast
from pathlib import Path

import pytest

import latentdebias

PACKAGE = Path(latentdebias.__file__).parent
# The road of an image, and below it what everything stands on: each room imports only from those above it here.
ROOMS = [
    "version",
    "timm_registration",
    "distributed",
    "errors",
    "process_groups",
    "precision",
    "philox",
    "devices",
    "registry",
    "files",
    "remote",
    "workers",
    "digits",
    "diffusion",
    "backbones",
    "autoencoders",
    "images",
    "shards",
    "batches",
    "sampling",
    "drawing",
    "models",
    "interop",
    "export",
    "evaluation",
    "training",
    "config",
    "objective",
    "prepare",
    "run",
    "plan",
    "analysis",
    "studies",
    "commands",
    "cli",
]
LEVEL = {room: level for level, room in enumerate(ROOMS)}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_above(path):
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "latentdebias" or parts[1] == room:
            continue
        assert LEVEL[parts[1]] < LEVEL[room], f"{relative} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_deepspeed_stays_in_one_file(path):
    relative = str(path.relative_to(PACKAGE))
    if relative != "training/engine.py":
        assert not any(name.split(".")[0] == "deepspeed" for name in imported(path)), relative

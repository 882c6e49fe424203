"""`docs/experiments.md`, written from the studies: python -m latentdebias.studies.experiments > docs/experiments.md

Every setting of every study stands there: its command, its network, what its training costs, and what was published.
"""

import functools
from pathlib import Path

from latentdebias.backbones.flops import forward_flops
from latentdebias.backbones.sized import SizedBackbone
from latentdebias.prepare import stated_network
from latentdebias.studies.study import FOLDER, Cell, Study

HEAD = """# Experiments

Every row of the two papers' tables, and the project's own studies, as [studies](studies.md): the command, what the
training of one run costs, and the published figure. Network and FLOP are computed from the config (2 FLOP for a
multiplication with its addition, a backward pass as two forward passes); what a run draws for its scores comes on top.
The published figures were not measured here.

This file is written by `python -m latentdebias.studies.experiments > docs/experiments.md`.
"""
NEEDS = "<!-- needs: the study's images, and hours to weeks of a GPU unless a cost is given -->"


def experiments(folder: Path) -> str:
    """The whole file, with a section for each study in `folder`."""
    return "\n".join([HEAD, *(section(path) for path in sorted(folder.glob("*.yaml")))])


def section(path: Path) -> str:
    """The section of one study; each of its networks is built on the meta device."""
    study = Study.read(path)
    title, _, notes = _comment(path).partition("\n")
    seeds = len(study.options.seeds)
    rows = [
        f"| {cell.setting.label} | {_cost(cell)} | {study.options.published.get(cell.setting.label, '')} |"
        for cell in study.cells({})[: len(study.settings)]
    ]
    head = "| setting | network | iterations | training FLOP | published |\n| --- | --- | --- | --- | --- |"
    each = f"\n\nEach setting from {seeds} seeds." * (seeds > 1)
    return f"## {title}\n\n{notes}{each}\n\n" + "\n".join([head, *rows]) + "\n"


def _comment(path: Path) -> str:
    """The comment at the head of a study: its title in the first line, then its commands as code and its notes."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    title, *rest = lines
    command = f"  latentdebias study run {FOLDER / path.name}"
    code = [line for line in rest if line.startswith("  ") and line != command]
    notes = [line for line in rest if line and not line.startswith("  ")]
    block = [NEEDS, "```sh", *(line.strip() for line in [*code, command]), "```"]
    return "\n".join([title, *block, "", *notes])


def _cost(cell: Cell) -> str:
    network, training = stated_network(cell.config), cell.config.training
    assert network is not None, "a study that is shipped states its latents"
    parameters, flops = _counts(network)
    total = "not counted" if flops is None else f"{flops * training.batch_size * training.steps:.1e}"
    return f"{cell.config.model_name}, {parameters / 1e6:.1f}M | {training.steps:,} of {training.batch_size} | {total}"


@functools.cache
def _counts(network: SizedBackbone) -> tuple[int, int | None]:
    """The parameters of a network, and the operations of training on one image, None where they are not counted."""
    parameters = sum(parameter.numel() for parameter in network.on_meta().parameters())
    flops = forward_flops(network.untrained().spec, network.latent_shape, network.num_classes)
    return parameters, None if flops is None else flops.training()


if __name__ == "__main__":
    print(experiments(FOLDER), end="")

"""`latentdebias analyze`: a figure of the papers, for any trained models."""

import argparse
import dataclasses
from typing import Any

from latentdebias.analysis.figures import FIGURES
from latentdebias.analysis.inputs import Inputs
from latentdebias.analysis.style import styled, write
from latentdebias.devices import open_device
from latentdebias.files import check_output_folder
from latentdebias.registry import load_plugins


def analyze(name: str, arguments: argparse.Namespace) -> None:
    """Compute and draw the figure `name`, write it into the folder `--out`, and print what it shows."""
    load_plugins(arguments.imports or ())
    check_output_folder(arguments.out)
    with styled():
        figure = FIGURES.build({"name": name, **_given(FIGURES.class_of(name), arguments)})
        device = open_device(arguments.device)
        inputs = Inputs(device=device, **_given(Inputs, arguments))
        write(figure.find(inputs), arguments.out, name)


def _given(cls: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a dataclass, except `device`, that the user has given a value for."""
    names = [each.name for each in dataclasses.fields(cls) if each.name != "device"]
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}

"""Starting a run from the weights of a model directory (`init_from`), once names and shapes are known to fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from latentdebias.batches.normalization import LatentNormalization
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError
from latentdebias.models.model_directory import CONFIG, WEIGHTS, read_model_config

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """The shape of each weight by its name."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def check_fit(network: nn.Module, found: Shapes, source: str, mend: str) -> None:
    """Raise `UserError` unless the weights `found` have the names and shapes of the network's.

    The message names the first weight that is missing, unexpected or of another shape; `source` says where the weights
    are from, and `mend` what to do.
    """
    expected = shapes_of(network.state_dict())
    for name, shape in expected.items():
        if name not in found:
            raise UserError(f"{source} has no {name}, which this network has with shape {shape}. {mend}")
        if found[name] != shape:
            raise UserError(f"{source} has {name} with shape {found[name]}, and this network's is {shape}. {mend}")
    for name, shape in found.items():
        if name not in expected:
            raise UserError(f"{source} has {name} with shape {shape}, which this network has not. {mend}")


def check_initial_weights(network: nn.Module, directory: str) -> None:
    """Raise `UserError` unless the weights in a model directory fit `network`, which may be on the meta device."""
    path = Path(directory, WEIGHTS)
    if not path.is_file():
        raise UserError(f"init_from {directory!r} is no model directory: it has no {WEIGHTS}. Name one, or null.")
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"init_from: {path} is damaged ({error}); write that model directory again.") from None
    mend = (
        f"A run starts only from weights of its own network: copy `model` and `diffusion.variance` from "
        f"{Path(directory, CONFIG)}, train on latents and classes of the same number, or set init_from: null."
    )
    check_fit(network, found, f"init_from: {path}", mend)


def load_initial_weights(network: nn.Module, directory: str) -> None:
    """Load the weights of a model directory into `network`; raises `UserError` where they do not fit."""
    check_initial_weights(network, directory)
    with torch.no_grad():
        network.load_state_dict(load_file(Path(directory, WEIGHTS)))


def differences(directory: str, diffusion: Diffusion, normalization: LatentNormalization) -> list[str]:
    """A note for each of normalization, schedule and target that differs from what the directory's model had."""
    theirs = read_model_config(Path(directory, CONFIG))
    pairs = {"data.normalization": (theirs.normalization, normalization)}
    trained, here = Diffusion(**theirs.diffusion).spec(), diffusion.spec()
    pairs |= {f"diffusion.{part}": (trained[part], here[part]) for part in ("schedule", "target")}
    return [
        f"note: the weights of init_from were trained under {name} {there}, and this run is under {ours}"
        for name, (there, ours) in pairs.items()
        if there != ours
    ]

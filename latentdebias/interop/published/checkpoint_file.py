"""Reading weights from checkpoint files of others, which are not trusted: no code that a pickle names is run."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentdebias.errors import UserError
from latentdebias.files import sha256_of

# The keys under which training checkpoints hold weights; averaged weights are preferred.
CONTAINERS = ("ema", "model_ema", "nnet_ema", "model", "state_dict")
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class CheckpointFile:
    """The state dict in a checkpoint file, with floating-point weights as fp32, and the sha256 of the file.

    `container` is the key under which the file holds the state dict, "" where the file is the state dict itself.
    """

    path: Path
    weights: dict[str, Tensor]
    sha256: str
    container: str


def open_checkpoint(path: Path) -> CheckpointFile:
    """Read a state dict from a `.safetensors` file, or from a file of `torch.save`, also a whole training checkpoint.

    Raises `UserError` where the file is missing or damaged, or where it holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}; name a checkpoint that exists.")
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    container = next((key for key in CONTAINERS if isinstance(loaded.get(key), Mapping)), "")
    weights = loaded[container] if container else loaded
    if not weights or not all(isinstance(key, str) and isinstance(w, Tensor) for key, w in weights.items()):
        raise UserError(
            f"{path} is no state dict, and holds none under {', '.join(CONTAINERS)}; its keys are "
            f"{', '.join(map(str, list(loaded)[:8]))}. Save the network's state_dict() alone."
        )
    if any(not _is_stored(weight) for weight in weights.values()):
        raise UserError(f"{path} has weights that state more numbers than it stores; get it from its source again.")
    return CheckpointFile(path, {_bare(name): _fp32(w) for name, w in weights.items()}, sha256_of(path), container)


def _load_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _is_stored(weight: Tensor) -> bool:
    """Whether each number of `weight` has its own place in memory: a view of one number may state billions."""
    if weight.layout != torch.strided or weight.is_quantized:
        return False
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()


def _load_pickle(path: Path) -> Mapping[str, Any]:
    try:
        # DiT's training checkpoints hold their command line beside the weights: plain attributes, without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or a pickle of more than tensors and plain values, and what it asks for is never run "
            f"({str(error).splitlines()[0][:200]}). Get it from its source again, or save the bare state_dict() where "
            f"the file is trusted."
        ) from None
    except Exception as error:  # torch.load has no one error for files that are no checkpoints
        raise _damaged(path, error) from None
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a state dict. Save the network's state_dict().")
    return loaded


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or no checkpoint ({type(error).__name__}: {str(error)[:200]}); get it from its source "
        f"again."
    )


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _fp32(weight: Tensor) -> Tensor:
    return weight.float() if weight.is_floating_point() else weight

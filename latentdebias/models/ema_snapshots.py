"""The `ema/` folder of a run: snapshots of power-function averages, from which any width is made after training.

Each snapshot is a whole model in fp16, whatever the number of ranks and the ZeRO stage were. Rounding to fp16 halves
the folder, and adds to a reconstruction about the error of a cast to fp16: rms 1.5e-5 measured on weights of rms 0.086,
for widths of 0.075 to 0.2 from snapshots of 0.05 and 0.1. For a width below those of the snapshots the error is larger,
four times so for 0.03.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from latentdebias.errors import UserError
from latentdebias.files import parse_json, publish
from latentdebias.models.ema_profiles import Profile, coefficients, name_of_std, profile_error
from latentdebias.models.model_directory import CONFIG, ModelConfig, read_model_config, save_model, write_model_config

FOLDER = "ema"
PROFILE = "profile"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot file, and the profile of the average in it."""

    path: Path
    profile: Profile


class SnapshotFolder:
    """The folder `ema/` that a run writes its snapshots to; used on rank 0 only."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER

    def start_at(self, step: int, config: ModelConfig) -> None:
        """Prepare the folder for a run that continues from `step`: write `config`, delete snapshots of later steps."""
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.glob("step-*.safetensors"):
            if int(path.name.split("-")[1]) > step:
                path.unlink()
        write_model_config(self.folder / CONFIG, config)

    def write(self, std: float, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the average of relative width `std` at `step` as one file, its floating-point weights in fp16."""
        rounded = {name: _rounded(weight).contiguous() for name, weight in weights.items()}
        path = self.folder / f"step-{step:08d}-{name_of_std(std)}.safetensors"
        # One metadata key only: safetensors orders several at random, so that equal snapshots would differ in bytes.
        publish(path, save(rounded, {PROFILE: json.dumps({"step": step, "std": std})}))


def _rounded(weight: Tensor) -> Tensor:
    return weight.half() if weight.is_floating_point() else weight


def reconstruct(run_dir: Path, std: float, step: int | None, out: Path) -> tuple[int, float]:
    """Write the model directory `out` with the average of relative width `std` at `step`.

    A `step` of None is that of the last snapshot. Returns the step and the relative error of the profile. Raises
    `UserError` where there are no snapshots, one is damaged, `std` is not a legal width, or `step` is not between the
    first and the last snapshot.
    """
    name = name_of_std(std)
    snapshots = _find(run_dir)
    wanted = Profile(_check_step(step, snapshots), std)
    profiles = [snapshot.profile for snapshot in snapshots]
    x = coefficients(profiles, wanted)
    weights = _combine(snapshots, x.tolist())
    config = read_model_config(run_dir / FOLDER / CONFIG)
    save_model(out, dataclasses.replace(config, step=wanted.step, ema=name), weights)
    return wanted.step, profile_error(profiles, x, wanted)


def _find(run_dir: Path) -> list[Snapshot]:
    """The snapshots of a run, in the order of their steps."""
    paths = sorted((run_dir / FOLDER).glob("step-*.safetensors"))
    if not paths:
        raise UserError(
            f"There are no snapshots in {run_dir / FOLDER}. A run writes them where it is told to before it trains: "
            f"--set ema.stds=[0.05,0.1] --set ema.snapshot_every=N"
        )
    return [Snapshot(path, _profile_in(path)) for path in paths]


def _profile_in(path: Path) -> Profile:
    try:
        with safe_open(path, "pt") as file:
            profile = parse_json(file.metadata()[PROFILE])
        return Profile(int(profile["step"]), float(profile["std"]))
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"The snapshot {path} is damaged ({error}); delete it to go without it.")


def _check_step(step: int | None, snapshots: list[Snapshot]) -> int:
    first, last = snapshots[0].profile.step, snapshots[-1].profile.step
    if step is None:
        return last
    if not first <= step <= last:
        raise UserError(f"Step {step} cannot be reconstructed: the snapshots go from step {first} to step {last}.")
    return step


def _combine(snapshots: list[Snapshot], x: list[float]) -> dict[str, Tensor]:
    """The weights sum_i x_i snapshot_i in fp32; weights of other dtypes are taken from the last snapshot."""
    total: dict[str, Tensor] = {}
    for snapshot, share in zip(tqdm(snapshots, desc="snapshots", unit="file"), x, strict=True):
        try:
            weights = load_file(snapshot.path)
        except SafetensorError as error:
            raise _damaged(snapshot.path, error) from None
        for name, weight in weights.items():
            if weight.is_floating_point():
                total.setdefault(name, torch.zeros(weight.shape)).add_(weight.float(), alpha=share)
            else:
                total[name] = weight
    return total

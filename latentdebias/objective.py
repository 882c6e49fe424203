"""What a run optimises, in words and numbers, and the published recipe that is nearest to it."""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from latentdebias.config import CONFIG_DIR, load_config
from latentdebias.diffusion import TARGETS, Diffusion
from latentdebias.diffusion.effective_weight import EffectiveWeight, effective_weight
from latentdebias.diffusion.schedules import Table
from latentdebias.diffusion.weightings.learned import Edm2Uncertainty
from latentdebias.diffusion.weightings.solved import Pareto
from latentdebias.errors import UserError
from latentdebias.registry import brief

SAME = 0.02
"""Two effective weights at most this far apart are called one objective."""
MISSED = 0.2
"""The share of the schedule that a density may leave out unnoticed: those of infinite range have tails never drawn."""
SPACES = ("eps", "x0", "v", "flow")
SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
PARTS = ("schedule", "target", "weighting", "timesteps", "variance", "error", "terms")


class Objective:
    """The training objective of a process.

    Where a weighting is learned or solved while training, every number is of the part that stands before it is.
    """

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    @functools.cached_property
    def weight(self) -> EffectiveWeight:
        """The effective weight over log SNR."""
        return effective_weight(self.diffusion)

    @property
    def _learned(self) -> str:
        is_learned = isinstance(self.diffusion.weighting, Edm2Uncertainty | Pareto)
        return ", before what is learned of it" if is_learned else ""

    def summary(self) -> str:
        """One line on where the middle and the bulk of the effective weight lie in log SNR."""
        low, middle, high = (self.weight.quantile(share) for share in (0.95, 0.5, 0.05))
        target, weighting, timesteps = (shown(getattr(self.diffusion, part)) for part in PARTS[1:4])
        return (
            f"objective: {target} with weighting {weighting}, timesteps {timesteps}: half of the effective weight is "
            f"above log SNR {middle:.2f}, 90% between {high:.2f} and {low:.2f}{self._learned}"
        )

    def check(self) -> None:
        """Raise `UserError` where the timestep sampler never draws the larger part of the schedule."""
        if self._covered < 0.5:
            raise UserError(f"{self._missed()}. Choose another density, or another schedule.")

    def notes(self) -> list[str]:
        """What a user should know of the objective: parts that undo each other, or leave out some of the schedule."""
        notes = []
        if self._is_undone():
            timesteps, weighting = shown(self.diffusion.timesteps), shown(self.diffusion.weighting)
            notes.append(
                f"timesteps {timesteps} and weighting {weighting} undo each other: the objective is that of uniform "
                f"timesteps and weighting constant, with gradients of another variance"
            )
        if self._covered < 1 - MISSED:
            notes.append(self._missed())
        return notes

    @property
    def _covered(self) -> float:
        return float(self.weight.covered.double().mean())

    def _missed(self) -> str:
        log_snr = self.weight.log_snr
        drawn = log_snr[self.weight.covered]
        return (
            f"timesteps {shown(self.diffusion.timesteps)} never draw {1 - self._covered:.0%} of the schedule: the "
            f"network is trained at log SNR {drawn.max():.2f} to {drawn.min():.2f}, and the schedule goes from "
            f"{log_snr.max():.2f} to {log_snr.min():.2f}"
        )

    def _is_undone(self) -> bool:
        """Whether neither timesteps nor weighting is the default, and both together are what the defaults are."""
        parts, process = self.diffusion.spec(), self.diffusion
        if parts["timesteps"]["name"] in ("uniform", "stratified") or parts["weighting"]["name"] == "constant":
            return False
        plain = Diffusion(process.schedule, process.target, "constant", "uniform", process.variance)
        return self.weight.distance(effective_weight(plain)) <= SAME

    def describe(self) -> list[str]:
        """The parts, the weight in every space, and the nearest recipe, in lines."""
        parts = {part: getattr(self.diffusion, part) for part in PARTS}
        lines = [f"{part:12s}{shown(built)}" for part, built in parts.items() if built]
        if len(self.weight.log_snr) < 2:
            return [*lines, "a schedule of one timestep has no weight over the noise level"]
        lines += ["", f"weight on the squared error of each target, by share of the schedule{self._learned}"]
        heads = "".join(f"{name:>11s}" for name in SPACES)
        lines.append(f"{'share':>8s}{'log SNR':>9s}{heads}{'drawn':>10s}{'effective':>11s}")
        lines += [self._row(share) for share in SHARES]
        low, middle, high = (self.weight.quantile(share) for share in (0.95, 0.5, 0.05))
        recipe, distance = nearest_recipe(self)
        lines += [
            "drawn: density of the timesteps per log SNR; effective: density x weight on v, normalised over log SNR",
            "",
            f"effective weight: 5% above log SNR {high:.2f}, half above {middle:.2f}, 95% above {low:.2f}; "
            f"{self.weight.share_above(0):.0%} where there is more signal than noise",
            f"{'the objective' if distance <= SAME else 'nearest'} of recipe {recipe.name}, {recipe.paper}; "
            f"distance {distance:.3f} of 1",
        ]
        lines += [f"  {line}" for line in differences(self.diffusion, recipe.objective.diffusion)]
        return lines + [f"note: {note}" for note in self.notes()]

    def _row(self, share: float) -> str:
        process = self.diffusion
        t = process.schedule.from_unit(torch.tensor([share], dtype=torch.float64))
        level = process.schedule.level_and_rate(t, torch.float64).inside()
        on_target = process.weighting.weight_of_target(process.target, level)
        ratios = [TARGETS.build(name).error_ratio(process.target, level) for name in SPACES]
        weights = "".join(f"{float(on_target * ratio):11.3g}" for ratio in ratios)
        nearest = int((self.weight.log_snr - level.log_snr).abs().argmin())
        drawn, effective = float(self.weight.density[nearest]), float(self.weight.weight[nearest])
        return f"{share:8.2f}{float(level.log_snr):9.2f}{weights}{drawn:10.3g}{effective:11.3g}"


@dataclass(frozen=True)
class Recipe:
    """A published training objective: a file of `configs/recipes/`, whose first line names its paper."""

    name: str
    paper: str
    objective: Objective


@functools.cache
def read_recipes() -> list[Recipe]:
    """Every recipe in `configs/recipes/`, by name; their warnings are for those who train with them."""
    recipes = []
    for path in sorted((CONFIG_DIR / "recipes").glob("*.yaml")):
        paper = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = load_config(str(path))
            recipes.append(Recipe(path.stem, paper, Objective(config.diffusion.build(config.data.latent_shape))))
    return recipes


def nearest_recipe(objective: Objective) -> tuple[Recipe, float]:
    """The recipe with the nearest effective weight, and how far it is (`EffectiveWeight.distance`, 0 to 1).

    Of recipes that are equally near, the one with the most parts in common.
    """

    def rank(recipe: Recipe) -> tuple[float, int]:
        distance = round(objective.weight.distance(recipe.objective.weight), 3)
        return distance, len(differences(objective.diffusion, recipe.objective.diffusion))

    found = min(read_recipes(), key=rank)
    return found, objective.weight.distance(found.objective.weight)


def differences(here: Diffusion, there: Diffusion) -> list[str]:
    """One line for each part of a process that differs: what it is here, and there."""
    pairs = ((part, getattr(here, part), getattr(there, part)) for part in PARTS)
    return [f"{part}: {shown(mine)} here, {shown(theirs)} there" for part, mine, theirs in pairs if mine != theirs]


def shown(part: Any) -> str:
    """A part of a process as a config states it on a line: its name, and the fields that are no default."""
    if isinstance(part, Table):
        return "a table of alphas_cumprod"
    line = yaml.safe_dump(brief(part), default_flow_style=True, sort_keys=False, width=10_000)
    return line.removesuffix("\n").removesuffix("\n...")

"""What a run optimises, in words and numbers, and the published recipe that is nearest to it."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from latentdebias.config import CONFIG_DIR, load_config
from latentdebias.diffusion import (
    ERRORS,
    SCHEDULES,
    TARGETS,
    TERMS,
    TIMESTEP_SAMPLERS,
    VARIANCES,
    WEIGHTINGS,
    Diffusion,
)
from latentdebias.diffusion.effective_weight import EffectiveWeight, effective_weight
from latentdebias.errors import UserError
from latentdebias.registry import Registry

SAME = 0.02
"""Two effective weights at most this far apart are called one objective."""
SPACES = ("eps", "x0", "v", "flow")
SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
MISSED = 0.2
"""The share of the schedule that a density may leave out unnoticed: those of infinite range have tails never drawn."""
REGISTRIES: dict[str, Registry[Any]] = {
    "schedule": SCHEDULES,
    "target": TARGETS,
    "weighting": WEIGHTINGS,
    "timesteps": TIMESTEP_SAMPLERS,
    "variance": VARIANCES,
    "error": ERRORS,
    "terms": TERMS,
}


@dataclass(frozen=True)
class Recipe:
    """A published training objective: a file of `configs/recipes/`, whose first line names its paper."""

    name: str
    paper: str
    diffusion: Diffusion


def read_recipes() -> list[Recipe]:
    """Every recipe in `configs/recipes/`, by name."""
    recipes = []
    for path in sorted((CONFIG_DIR / "recipes").glob("*.yaml")):
        paper = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        recipes.append(Recipe(path.stem, paper, _quietly(str(path))))
    return recipes


def _quietly(path: str) -> Diffusion:
    """The process of a recipe; its warnings are for those who train with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = load_config(path)
        return config.diffusion.build(config.data.latent_shape)


def nearest_recipe(diffusion: Diffusion) -> tuple[Recipe, float]:
    """The recipe with the nearest effective weight, and how far it is (`EffectiveWeight.distance`, 0 to 1).

    Of recipes that are equally near, the one with the most parts in common.
    """
    mine, spec = effective_weight(diffusion), diffusion.spec()

    def rank(recipe: Recipe) -> tuple[float, int]:
        distance = round(mine.distance(effective_weight(recipe.diffusion)), 3)
        return distance, len(differences(spec, recipe.diffusion.spec()))

    found = min(read_recipes(), key=rank)
    return found, mine.distance(effective_weight(found.diffusion))


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """One line for each part of a process that differs: what it is here, and there."""
    return [
        f"{part}: {shown(part, here[part])} here, {shown(part, there[part])} there"
        for part in REGISTRIES
        if here[part] != there[part]
    ]


def shown(part: str, spec: Any) -> str:
    """The plain data of a part of a process as a config states it: its name, and the fields that are no default."""
    if isinstance(spec, list):
        return "[" + ", ".join(shown(part, each) for each in spec) + "]"
    name, registry = spec["name"], REGISTRIES[part]
    # A table of alphas_cumprod has no default, and a thousand numbers.
    default = {} if name == "table" else registry.spec_of(registry.build(name))
    changed = [f"{key}: {value}" for key, value in spec.items() if default.get(key, value) != value]
    return f"{{name: {name}, {', '.join(changed)}}}" if changed else name


def summary(diffusion: Diffusion) -> str:
    """One line on the effective weight: where its middle and its bulk lie in log SNR."""
    found = effective_weight(diffusion)
    low, middle, high = (found.quantile(share) for share in (0.95, 0.5, 0.05))
    target = TARGETS.name_of(diffusion.target)
    weighting, timesteps = (shown(part, diffusion.spec()[part]) for part in ("weighting", "timesteps"))
    return (
        f"objective: {target} with weighting {weighting}, timesteps {timesteps}: half of the effective weight is above "
        f"log SNR {middle:.2f}, 90% between {high:.2f} and {low:.2f}"
    )


def undone(diffusion: Diffusion) -> str | None:
    """A sentence where the timestep density and the weighting undo each other, else None.

    They do where neither is the default and together they are no other objective than both defaults would be.
    """
    spec = diffusion.spec()
    if spec["timesteps"]["name"] in ("uniform", "stratified") or spec["weighting"]["name"] == "constant":
        return None
    plain = Diffusion(diffusion.schedule, diffusion.target, "constant", "uniform", diffusion.variance)
    if effective_weight(diffusion).distance(effective_weight(plain)) > SAME:
        return None
    timesteps, weighting = (shown(part, spec[part]) for part in ("timesteps", "weighting"))
    return (
        f"timesteps {timesteps} and weighting {weighting} undo each other: the objective is that of uniform timesteps "
        f"and weighting constant, with gradients of another variance"
    )


def missed(diffusion: Diffusion) -> str | None:
    """A sentence where part of the schedule is never drawn, else None."""
    found = effective_weight(diffusion)
    if found.covered.double().mean() > 1 - MISSED:
        return None
    share, drawn = 1 - found.covered.double().mean(), found.log_snr[found.covered]
    return (
        f"timesteps {shown('timesteps', diffusion.spec()['timesteps'])} never draw {share:.0%} of the schedule: the "
        f"network is trained at log SNR {drawn.max():.2f} to {drawn.min():.2f}, and the schedule goes from "
        f"{found.log_snr.max():.2f} to {found.log_snr.min():.2f}"
    )


def describe(diffusion: Diffusion) -> list[str]:
    """What a run with this process optimises: its parts, its weight in every space, and the nearest recipe."""
    spec, found = diffusion.spec(), effective_weight(diffusion)
    lines = [f"{part:12s}{shown(part, spec[part])}" for part in REGISTRIES if spec[part]]
    lines += ["", "weight on the squared error of each target, by share of the schedule"]
    lines.append(
        f"{'share':>8s}{'log SNR':>9s}"
        + "".join(f"{name:>11s}" for name in SPACES)
        + f"{'drawn':>10s}{'effective':>11s}"
    )
    lines += [_row(diffusion, found, share) for share in SHARES]
    lines += [
        "drawn: density of the timesteps per log SNR; effective: density x weight on v, normalised over log SNR",
        "",
        f"effective weight: 5% above log SNR {found.quantile(0.05):.2f}, half above {found.quantile(0.5):.2f}, 95% "
        f"above {found.quantile(0.95):.2f}; {found.share_above(0):.0%} where there is more signal than noise",
    ]
    recipe, distance = nearest_recipe(diffusion)
    same = "the objective" if distance <= SAME else "nearest"
    lines.append(f"{same} of recipe {recipe.name}, {recipe.paper}; distance {distance:.3f} of 1")
    lines += [f"  {line}" for line in differences(spec, recipe.diffusion.spec())]
    return lines + [f"note: {note}" for note in (undone(diffusion), missed(diffusion)) if note]


def _row(diffusion: Diffusion, found: EffectiveWeight, share: float) -> str:
    t = diffusion.schedule.from_unit(torch.tensor([share], dtype=torch.float64))
    level = diffusion.schedule.level_and_rate(t, torch.float64).inside()
    on_target = diffusion.weighting.weight_of_target(diffusion.target, level)
    # As the weighting's own conversion: |ds|^2 / |dy|^2 at a fixed z.
    ratios = [(diffusion.target.det(level) / TARGETS.build(name).det(level)) ** 2 for name in SPACES]
    weights = "".join(f"{float(on_target * ratio):11.3g}" for ratio in ratios)
    nearest = int((found.log_snr - level.log_snr).abs().argmin())
    drawn, effective = float(found.density[nearest]), float(found.weight[nearest])
    return f"{share:8.2f}{float(level.log_snr):9.2f}{weights}{drawn:10.3g}{effective:11.3g}"


def check_density(diffusion: Diffusion) -> None:
    """Raise `UserError` where the timestep sampler never draws the larger part of the schedule."""
    covered = effective_weight(diffusion).covered.double().mean()
    if covered < 0.5:
        raise UserError(f"{missed(diffusion)}. Choose another density, or another schedule.")

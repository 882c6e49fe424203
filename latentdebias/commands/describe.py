"""`latentdebias describe` and `latentdebias recipes`: training objectives, in words and numbers."""

import argparse
import warnings

from latentdebias.commands.terminal import table
from latentdebias.config import load_config
from latentdebias.diffusion import SCHEDULES, TARGETS
from latentdebias.errors import command
from latentdebias.objective import Objective, read_recipes, shown

COLUMNS = ["recipe", "schedule", "target", "weighting", "timesteps", "log SNR", "paper"]


def print_description(arguments: argparse.Namespace) -> None:
    """Print what the run of a config optimises."""
    config = load_config(arguments.config, arguments.overrides)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        diffusion = config.diffusion.build(config.data.latent_shape)
    objective = Objective(diffusion)
    objective.check()
    print("\n".join([*objective.describe(), *(f"note: {warning.message}" for warning in caught)]))


def print_recipes() -> None:
    """Print a line for each recipe: its parts, the middle half of its effective weight, and its paper."""
    rows = [COLUMNS]
    for recipe in read_recipes():
        process, weight = recipe.objective.diffusion, recipe.objective.weight
        middle = f"{weight.quantile(0.75):.1f} .. {weight.quantile(0.25):.1f}"
        names = [SCHEDULES.name_of(process.schedule), TARGETS.name_of(process.target)]
        rows.append([recipe.name, *names, shown(process.weighting), shown(process.timesteps), middle, recipe.paper])
    print(table(rows))
    print("\nlog SNR: the middle half of the effective weight. In a config: base: recipes/NAME.yaml")
    print(f"What a config of yours optimises: {command('describe')} --config FILE")

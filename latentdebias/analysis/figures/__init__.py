"""The figures; importing this package registers them by name."""

from latentdebias.analysis.figure import FIGURES
from latentdebias.analysis.figures import (
    conflict,
    curves,
    error_by_t,
    iterations,
    loss_by_t,
    one_step,
    pareto,
    steps,
    trajectory,
)

__all__ = [
    "FIGURES",
    "conflict",
    "curves",
    "error_by_t",
    "iterations",
    "loss_by_t",
    "one_step",
    "pareto",
    "steps",
    "trajectory",
]

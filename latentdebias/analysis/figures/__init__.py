"""The figures; importing this package registers them by name."""

from latentdebias.analysis.figure import FIGURES
from latentdebias.analysis.figures import curves, error_by_t, iterations, loss_by_t, one_step, steps, trajectory

__all__ = ["FIGURES", "curves", "error_by_t", "iterations", "loss_by_t", "one_step", "steps", "trajectory"]

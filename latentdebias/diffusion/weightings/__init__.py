"""Loss weightings by noise level; importing this package registers them by name."""

from latentdebias.diffusion.weightings import by_snr, flow_path, learned, likelihood, other_codes, solved
from latentdebias.diffusion.weightings.weighting import WEIGHTINGS, Weighting

__all__ = ["WEIGHTINGS", "Weighting", "by_snr", "flow_path", "learned", "likelihood", "other_codes", "solved"]

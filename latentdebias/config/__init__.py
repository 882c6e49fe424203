"""The run config: typed, with unknown keys refused at every level, and with its parts already built."""

from latentdebias.config.loading import CONFIG_DIR, load_config
from latentdebias.config.run_config import DiffusionOptions, RunConfig, write_config

__all__ = ["CONFIG_DIR", "DiffusionOptions", "RunConfig", "load_config", "write_config"]

"""The run config: typed, strict at every level, its sections holding built parts."""

from latentdebias.config.loading import CONFIG_DIR, load_config
from latentdebias.config.run_config import DiffusionOptions, RunConfig, write_config

__all__ = ["CONFIG_DIR", "DiffusionOptions", "RunConfig", "load_config", "write_config"]

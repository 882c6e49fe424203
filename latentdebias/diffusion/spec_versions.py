"""Processes as plain data that earlier versions wrote, stated as this version reads them."""

from collections.abc import Mapping
from typing import Any


def of_version_1(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The `diffusion` section `spec` of a file of format version 1, stated so that `Diffusion(**spec)` is that process.

    Version 1 took the two betas of schedule linear as they are for every number of timesteps, as diffusers does; today
    they are multiplied by 1000 / num_timesteps unless `beta_range` says diffusers.
    """
    schedule = spec.get("schedule")
    if not isinstance(schedule, Mapping) or schedule.get("name") != "linear":
        return dict(spec)
    if schedule.get("num_timesteps", 1000) == 1000:
        return dict(spec)
    return {**spec, "schedule": {**schedule, "beta_range": "diffusers"}}

"""The schedule and the target that a `diffusers` scheduler defines."""

from typing import Any

from latentdebias.diffusion.schedules import Flow, Schedule, Table
from latentdebias.errors import UserError, legal_choices

TARGET_OF_PREDICTION_TYPE = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
RESPACED_SIGMAS = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def parts_of_scheduler(scheduler: Any) -> tuple[Schedule, str]:
    """The schedule of a scheduler, its table of alphas_cumprod or its flow-matching path, and the name of its target.

    The target is read from `scheduler.config.prediction_type`. Raises `UserError` for a scheduler with neither.
    """
    config = scheduler.config
    _refuse_other_noise_levels(scheduler)
    if config.get("use_flow_sigmas", False):
        return Flow(shift=float(config.flow_shift)), "flow"
    if not hasattr(scheduler, "alphas_cumprod"):
        return Flow(shift=float(config.shift)), "flow"
    prediction_type = config.prediction_type
    if prediction_type not in TARGET_OF_PREDICTION_TYPE:
        choices = legal_choices(prediction_type, TARGET_OF_PREDICTION_TYPE)
        raise UserError(f"The scheduler's prediction_type {prediction_type!r} is no target. {choices}")
    return Table(table=tuple(scheduler.alphas_cumprod.double().tolist())), TARGET_OF_PREDICTION_TYPE[prediction_type]


def _refuse_other_noise_levels(scheduler: Any) -> None:
    """Raise `UserError` for a diffusers scheduler whose noise levels are neither a table nor the plain flow path."""
    config, name = scheduler.config, type(scheduler).__name__
    flow = config.get("use_flow_sigmas", False) or "shift" in config
    if not flow and not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{name} has neither alphas_cumprod nor a flow-matching shift, so its noise schedule cannot be read; "
            f"pass a DDPM, DDIM, DPM-Solver, UniPC or FlowMatchEulerDiscrete scheduler."
        )
    respaced = [key for key in RESPACED_SIGMAS if config.get(key, False)]
    if flow and (respaced or config.num_train_timesteps != 1000):
        raise UserError(
            f"{name} with {', '.join(respaced) or 'num_train_timesteps other than 1000'} has a noise schedule that "
            f"cannot be read; pass a scheduler with a fixed shift and 1000 training timesteps."
        )

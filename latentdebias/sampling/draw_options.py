"""The options by which images are drawn, shared by `sampling:`, `evaluation:` and the commands."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from latentdebias.diffusion.schedules import Flow
from latentdebias.errors import UserError
from latentdebias.precision import Precision
from latentdebias.registry import option
from latentdebias.sampling.ancestral import DDIM
from latentdebias.sampling.guidance import Guidance
from latentdebias.sampling.network import ModelFacts
from latentdebias.sampling.samplers import SAMPLERS, Sampler


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How images are drawn from a trained model."""

    moved: ClassVar[dict[str, str]] = {
        f"guidance_{name}": f"guidance.{name}" for name in ("interval", "schedule", "rule", "channels", "rescale")
    }

    sampler: Annotated[Sampler, SAMPLERS.part] = option(
        DDIM(), "ddpm: clip 1.0 for pixels; euler: flow only;  {name: heun, s_churn: 40}"
    )
    steps: PositiveInt = option(50, "steps of the sampler")
    guidance: Guidance = option(Guidance(1.5), "a number is the scale")
    zero_init: NonNegativeInt = option(0, "first steps that stand still; flow only")
    precision: Precision = option("fp32", "fp32 (in full) | tf32 (fp32 on a CPU) | bf16 (autocast)")
    seed: NonNegativeInt = option(0, "image i is a function of (seed, i)")
    batch_size: PositiveInt = option(64, "images drawn together; changes no more than their last bits")


def check_draw(options: DrawOptions, model: ModelFacts) -> None:
    """Raise `UserError` for a sampler or guidance that `model` cannot be drawn with."""
    sampler, zero_init = options.sampler, options.zero_init
    sampler.check(model.diffusion, options.steps)
    options.guidance.check(model)
    if zero_init and not isinstance(model.diffusion.schedule, Flow):
        raise UserError(
            f"zero_init is {zero_init}, and this model's schedule is not flow: there is no velocity to set to zero. "
            f"Leave it at 0."
        )
    if zero_init >= options.steps:
        raise UserError(f"zero_init is {zero_init} of {options.steps} steps: nothing would be drawn; lower it.")
    if zero_init and sampler.adds_noise():
        raise UserError(
            f"zero_init is {zero_init}, and sampler {SAMPLERS.name_of(sampler)!r} adds noise, so its first steps would "
            f"not stand still; use one that adds none, such as euler or heun."
        )

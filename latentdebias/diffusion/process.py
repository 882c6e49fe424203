"""The diffusion process: noise schedule, prediction target, loss weighting and timestep sampler as one object."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentdebias.diffusion.broadcasting import over_batch
from latentdebias.diffusion.continuous_schedules import Flow
from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.schedules import SCHEDULES, DiscreteSchedule, Schedule, Table
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.timesteps import TIMESTEP_SAMPLERS, TimestepSampler
from latentdebias.diffusion.variances import VARIANCES, Variance
from latentdebias.diffusion.weightings import WEIGHTINGS, Weighting
from latentdebias.errors import UserError, legal_choices
from latentdebias.registry import Spec

TARGET_OF_PREDICTION_TYPE = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
# A weight above this is one that only the guard on SNR keeps finite (cosine's largest real one, inv_snr, is 4e8).
UNBOUNDED = 1e10
UNEVEN = 100
RESPACED_SIGMAS = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss, each `(B,)` fp32: the weighted squared error, and the bound that trains the variance.

    `x0_error` is the squared error of the x0 that the prediction means, without a weight or a gradient.
    """

    squared_error: Tensor
    bound: Tensor
    x0_error: Tensor

    @property
    def total(self) -> Tensor:
        """The loss `(B,)`: the sum of its terms."""
        return self.squared_error + self.bound


class Diffusion:
    """z_t = alpha(t) x0 + sigma(t) eps, a target y = a x0 + b eps, and a weight on its squared error.

    Each part is a name (`"debias"`), a name with fields (`{"name": "min_snr", "gamma": 5}`) or a built object. A
    timestep t is a position on the schedule, as `sample_timesteps` draws them: 0 to T - 1 on a discrete one, 0 to 1 on
    a continuous one. With a learned `variance` the network's output has two channels for each of z. Raises `UserError`
    where target or weighting is infinite somewhere on the schedule, or the variance means nothing on it.
    """

    def __init__(
        self,
        schedule: Spec | Schedule = "linear",
        target: Spec | Target = "eps",
        weighting: Spec | Weighting = "constant",
        timesteps: Spec | TimestepSampler = "uniform",
        variance: Spec | Variance = "fixed",
    ) -> None:
        self.schedule = SCHEDULES.build(schedule)
        self.target = TARGETS.build(target)
        self.weighting = WEIGHTINGS.build(weighting)
        self.timesteps = TIMESTEP_SAMPLERS.build(timesteps)
        self.variance = VARIANCES.build(variance)
        self._weight_tables: dict[torch.device, Tensor] = {}
        self.variance.check(self.schedule)
        self._check_target()
        self._weight_scale = self._check_weighting()

    @classmethod
    def from_diffusers(
        cls,
        scheduler: Any,
        weighting: Spec | Weighting = "constant",
        timesteps: Spec | TimestepSampler = "uniform",
        variance: Spec | Variance = "fixed",
    ) -> "Diffusion":
        """The process that a `diffusers` scheduler defines: its table of alphas_cumprod, or its flow-matching path.

        The target is read from `scheduler.config.prediction_type`. Raises `UserError` for a scheduler with neither.
        """
        config = scheduler.config
        _refuse_other_noise_levels(scheduler)
        if config.get("use_flow_sigmas", False):
            return cls(Flow(shift=float(config.flow_shift)), "flow", weighting, timesteps, variance)
        if hasattr(scheduler, "alphas_cumprod"):
            prediction_type = config.prediction_type
            if prediction_type not in TARGET_OF_PREDICTION_TYPE:
                choices = legal_choices(prediction_type, TARGET_OF_PREDICTION_TYPE)
                raise UserError(f"The scheduler's prediction_type {prediction_type!r} is no target. {choices}")
            schedule: Schedule = Table(table=tuple(scheduler.alphas_cumprod.double().tolist()))
            return cls(schedule, TARGET_OF_PREDICTION_TYPE[prediction_type], weighting, timesteps, variance)
        return cls(Flow(shift=float(config.shift)), "flow", weighting, timesteps, variance)

    def spec(self) -> dict[str, Any]:
        """The parts as plain data; `Diffusion(**spec)` is the same process."""
        return {
            "schedule": SCHEDULES.spec_of(self.schedule),
            "target": TARGETS.spec_of(self.target),
            "weighting": WEIGHTINGS.spec_of(self.weighting),
            "timesteps": TIMESTEP_SAMPLERS.spec_of(self.timesteps),
            "variance": VARIANCES.spec_of(self.variance),
        }

    def alpha(self, t: Tensor) -> Tensor:
        """The signal scale alpha at t: `(B,)` -> `(B,)`, fp32."""
        return self.schedule.level(t).alpha

    def sigma(self, t: Tensor) -> Tensor:
        """The noise scale sigma at t: `(B,)` -> `(B,)`, fp32."""
        return self.schedule.level(t).sigma

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio alpha^2 / sigma^2 at t: `(B,)` -> `(B,)`, fp32."""
        return self.schedule.level(t, torch.float64).snr.float()

    def loss_weight(self, t: Tensor) -> Tensor:
        """The weight at t on the squared error of the target: `(B,)` -> `(B,)`, fp32."""
        if not isinstance(self.schedule, DiscreteSchedule):
            return self.weighting.weight_of_target(self.target, self.schedule.level(t)) * self._weight_scale
        if t.device not in self._weight_tables:
            weight = self._weight_on_grid() * self._weight_scale
            self._weight_tables[t.device] = weight.to(t.device, torch.float32)
        return self._weight_tables[t.device][t.long()]

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The noisy z_t = alpha x0 + sigma eps: `(B, ...)` -> `(B, ...)`, in fp32 or wider."""
        level = self._level(t, x0)
        return level.alpha * x0 + level.sigma * eps

    def target_of(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The target y = a x0 + b eps that the network should predict: `(B, ...)` -> `(B, ...)`."""
        return self.target.of(x0, eps, self._level(t, x0))

    def to_x0(self, y: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The x0 that prediction y at z_t means: `(B, ...)` -> `(B, ...)`."""
        return self.target.to_x0(y, z, self._level(t, z))

    def to_eps(self, y: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The eps that prediction y at z_t means: `(B, ...)` -> `(B, ...)`."""
        return self.target.to_eps(y, z, self._level(t, z))

    def convert(self, y: Tensor, z: Tensor, t: Tensor, to: Spec | Target) -> Tensor:
        """Prediction y at z_t, stated as target `to`: `(B, ...)` -> `(B, ...)`."""
        return self.target.convert(y, z, self._level(t, z), to=TARGETS.build(to))

    def model_time(self, t: Tensor) -> Tensor:
        """The time that the network is told for t, such as the step's number, or 1000 sigma on the flow path."""
        return self.schedule.model_time(t)

    def model_input(self, z: Tensor, t: Tensor) -> Tensor:
        """The network's input: z itself, or c_in z under target edm: `(B, ...)` -> `(B, ...)`."""
        return over_batch(self.target.input_scale(self.schedule.level(t, z.dtype)), z) * z

    def sample_timesteps(self, u: Tensor, row: Tensor, rows: int) -> Tensor:
        """Timesteps `(B,)` from uniforms `u` `(B,)` of the rows numbered `row` `(B,)` in a global batch of `rows`."""
        return self.schedule.from_unit(self.timesteps.positions(u, row, rows, self.schedule))

    def loss(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        y: Tensor | None = None,
        t: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        """The loss w(t) |model(z_t, time, y) - target|^2, mean over all but the batch: `(B, ...)` -> `(B,)`, fp32.

        The model is called with `model_input`, `model_time` and, where given, labels y. A learned variance adds its
        bound. t and eps are drawn from torch's global generator where not given.
        """
        return self.loss_terms(model, x0, y, t, eps).total

    def loss_terms(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        y: Tensor | None = None,
        t: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> LossTerms:
        """The terms of the loss: the weighted squared error, the bound of a learned variance, and the error of x0.

        The arguments are those of `loss`.
        """
        if t is None:
            count = len(x0)
            row = torch.arange(count, device=x0.device)
            t = self.sample_timesteps(torch.rand(count, device=x0.device), row, count)
        if eps is None:
            eps = torch.randn_like(x0)
        z, time = self.add_noise(x0, eps, t), self.model_time(t)
        z_in = self.model_input(z, t)
        output = model(z_in, time) if y is None else model(z_in, time, y)
        prediction, values = self.variance.split(output, z)
        prediction = prediction.to(z.dtype)
        error = ((prediction - self.target_of(x0, eps, t)) ** 2).flatten(1).mean(dim=1)
        x0_hat = self.to_x0(prediction.detach(), z, t)
        bound = self.variance.bound(self.schedule, values, x0.to(z.dtype), x0_hat, t)
        level = self.schedule.level(t)
        x0_error = error.detach() * (level.sigma / self.target.det(level)) ** 2
        return LossTerms(error * self.loss_weight(t), bound, x0_error)

    def _level(self, t: Tensor, like: Tensor) -> NoiseLevel:
        """The levels at t `(B,)`, shaped to multiply `like` `(B, ...)`, in its dtype or in fp32 if that is wider."""
        return self.schedule.level(t, torch.promote_types(like.dtype, torch.float32)).over_batch(like)

    def _grid_level(self) -> NoiseLevel:
        return self.schedule.level(self.schedule.grid(), torch.float64)

    def _weight_on_grid(self) -> Tensor:
        return self.weighting.weight_of_target(self.target, self._grid_level())

    def _check_target(self) -> None:
        level = self._grid_level()
        if self.target.det(level)[level.sigma.argmax()] == 0:
            raise UserError(
                f"Target {TARGETS.name_of(self.target)!r} cannot be used on this schedule: its SNR ends at 0, where "
                f"the noise says nothing about x0. Choose target v, x0 or flow, or a schedule that ends above 0 "
                f"(linear or cosine, without zero_terminal_snr)."
            )

    def _check_weighting(self) -> float:
        """Refuse an infinite weight, warn of a very uneven one; returns the factor of `normalize`."""
        name, grid = WEIGHTINGS.name_of(self.weighting), self._weight_on_grid()
        largest = grid.max().item()
        if largest > UNBOUNDED:
            raise UserError(
                f"Weighting {name!r} is unbounded under target {TARGETS.name_of(self.target)!r} on this schedule; set "
                f"its max_weight (for example max_weight: 100), or choose a bounded weighting such as min_snr."
            )
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        positions = self.timesteps.positions(u, torch.zeros_like(u), 1, self.schedule)
        nearest = (positions * len(grid)).long().clamp(0, len(grid) - 1)
        mean = grid[nearest].mean().item()
        if largest > UNEVEN * mean:
            warnings.warn(
                f"Weighting {name!r} reaches {largest:.3g} on this schedule, {largest / mean:.0f} times its mean, so a "
                "few timesteps own the loss. Set its max_weight, or use schedule linear, as debias did.",
                stacklevel=3,
            )
        return 1 / mean if self.weighting.normalize == "mean" else 1.0


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

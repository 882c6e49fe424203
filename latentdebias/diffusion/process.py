"""The diffusion process: noise schedule, prediction target, loss weighting and timestep sampler as one object."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentdebias.diffusion.broadcasting import over_batch
from latentdebias.diffusion.errors import ERRORS, ErrorFunction, Squared
from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.scheduler_parts import parts_of_scheduler
from latentdebias.diffusion.schedules import SCHEDULES, DiscreteSchedule, Schedule
from latentdebias.diffusion.targets import TARGETS, Target
from latentdebias.diffusion.terms import TERMS, Term, check_pairs, of_neighbours
from latentdebias.diffusion.timesteps import TIMESTEP_SAMPLERS, TimestepSampler
from latentdebias.diffusion.timesteps.loss_aware import LossAware, LossHistory
from latentdebias.diffusion.variances import VARIANCES, Variance
from latentdebias.diffusion.weightings import WEIGHTINGS, Weighting
from latentdebias.errors import UserError
from latentdebias.registry import Spec

# A weight above this is one that only the guard on SNR keeps finite (cosine's largest real one, inv_snr, is 4e8).
UNBOUNDED = 1e10
UNEVEN = 100


@dataclass(frozen=True)
class LossTerms:
    """What a loss is the sum of, each `(B,)` fp32, and `x0_error`, for the log.

    That is the weighted error, the bound that trains a learned variance, and the sum of the additional `terms`.
    `x0_error` is the squared error of the x0 that the prediction means, without a weight or a gradient. `uncertainty`
    is the u of a learned weighting, which is then one of the `terms`, and by e^u the error is divided.
    """

    error: Tensor
    bound: Tensor
    terms: Tensor
    x0_error: Tensor
    uncertainty: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The loss `(B,)`: the sum of its terms."""
        return self.error + self.bound + self.terms


class Diffusion:
    """z_t = alpha(t) x0 + sigma(t) eps, a target y = a x0 + b eps, and a weight on its squared (or another) error.

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
        error: Spec | ErrorFunction = "squared",
        terms: Sequence[Spec | Term] = (),
    ) -> None:
        self.schedule = SCHEDULES.build(schedule)
        self.target = TARGETS.build(target)
        self.weighting = WEIGHTINGS.build(weighting)
        self.timesteps = TIMESTEP_SAMPLERS.build(timesteps)
        self.variance = VARIANCES.build(variance)
        self.error = ERRORS.build(error)
        self.terms = [TERMS.build(term) for term in terms]
        self.loss_history: LossHistory | None = None
        """The losses by which timesteps are drawn; None where they are drawn without."""
        if isinstance(self.timesteps, LossAware):
            self.loss_history = LossHistory(self.timesteps, self.schedule)
        self._weight_tables: dict[torch.device, Tensor] = {}
        self._bin_weights: Tensor | None = None
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
        error: Spec | ErrorFunction = "squared",
        terms: Sequence[Spec | Term] = (),
    ) -> "Diffusion":
        """The process that a `diffusers` scheduler defines: its table of alphas_cumprod, or its flow-matching path.

        The target is read from `scheduler.config.prediction_type`. Raises `UserError` for a scheduler with neither.
        """
        schedule, target = parts_of_scheduler(scheduler)
        return cls(schedule, target, weighting, timesteps, variance, error, terms)

    def spec(self) -> dict[str, Any]:
        """The parts as plain data; `Diffusion(**spec)` is the same process."""
        return {
            "schedule": SCHEDULES.spec_of(self.schedule),
            "target": TARGETS.spec_of(self.target),
            "weighting": WEIGHTINGS.spec_of(self.weighting),
            "timesteps": TIMESTEP_SAMPLERS.spec_of(self.timesteps),
            "variance": VARIANCES.spec_of(self.variance),
            "error": ERRORS.spec_of(self.error),
            "terms": [TERMS.spec_of(term) for term in self.terms],
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
            needs_rate = self.weighting.per == "log_snr"
            level = self.schedule.level_and_rate(t) if needs_rate else self.schedule.level(t)
            weight = self.weighting.weight_of_target(self.target, level)
            return weight * self._weight_scale * self._bin_weights_at(t).to(weight.dtype)
        if t.device not in self._weight_tables:
            weight = self._weight_on_grid() * self._weight_scale * self._bin_weights_at(self.schedule.grid())
            self._weight_tables[t.device] = weight.to(t.device, torch.float32)
        return self._weight_tables[t.device][t.long()]

    def set_bin_weights(self, weights: Tensor) -> None:
        """Multiply the loss weight by `weights` (B,), one for each of B equal bins of the schedule, from now on."""
        self._bin_weights = weights.clone()
        self._weight_tables.clear()

    def _bin_weights_at(self, t: Tensor) -> Tensor:
        """The factor of `set_bin_weights` at t: `(B,)` -> `(B,)`, fp64; 1 where none was set."""
        if self._bin_weights is None:
            return torch.ones_like(t, dtype=torch.float64)
        if self._bin_weights.device != t.device:
            self._bin_weights = self._bin_weights.to(t.device)
        bins = len(self._bin_weights)
        return self._bin_weights[(self.schedule.to_unit(t.double()) * bins).long().clamp(0, bins - 1)]

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
        """The time that the network is told, such as the step's number or 1000 sigma: `(B,)` -> `(B,)`."""
        return self.schedule.model_time(t)

    def model_input(self, z: Tensor, t: Tensor) -> Tensor:
        """The network's input: z itself, or c_in z under target edm: `(B, ...)` -> `(B, ...)`."""
        return over_batch(self.target.input_scale(self.schedule.level(t, z.dtype)), z) * z

    def sample_timesteps(self, u: Tensor, row: Tensor, rows: int) -> Tensor:
        """Timesteps `(B,)` from uniforms `u` `(B,)` of the rows numbered `row` `(B,)` in a global batch of `rows`."""
        if self.loss_history is not None:
            return self.loss_history.draw(u)
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
        bound, and each of `terms` its value. t and eps are drawn from torch's global generator where not given.
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
        """The terms of the loss and the squared error of x0, each `(B,)` fp32, with the arguments of `loss`.

        Raises `UserError` for an odd number of rows where a term compares pairs of them.
        """
        if t is None:
            count = len(x0)
            row = torch.arange(count, device=x0.device)
            t = self.sample_timesteps(torch.rand(count, device=x0.device), row, count)
        if eps is None:
            eps = torch.randn_like(x0)
        z, time = self.add_noise(x0, eps, t), self.model_time(t)
        z_in = self.model_input(z, t)
        output, uncertainty = model(z_in, time) if y is None else model(z_in, time, y), None
        if isinstance(output, tuple):
            output, uncertainty = output
        prediction, values = self.variance.split(output, z)
        prediction = prediction.to(z.dtype)
        target = self.target_of(x0, eps, t)
        squared = ((prediction - target) ** 2).flatten(1).mean(dim=1)
        error = squared if isinstance(self.error, Squared) else self._other_error(prediction - target, t)
        x0_hat = self.to_x0(prediction.detach(), z, t)
        bound = self.variance.bound(self.schedule, values, x0.to(z.dtype), x0_hat, t)
        other = None
        if any(term.needs_pairs for term in self.terms):
            check_pairs(self.terms, len(x0))
            other = self.target_of(of_neighbours(x0), of_neighbours(eps), t)
        terms = torch.zeros_like(error)
        for term in self.terms:
            terms = terms + term.value(prediction, target, other)
        error = error * self.loss_weight(t)
        if uncertainty is not None:
            error, terms = error * torch.exp(-uncertainty), terms + uncertainty
        level = self.schedule.level(t)
        x0_error = squared.detach() * (level.sigma / self.target.det(level)) ** 2
        return LossTerms(error, bound, terms, x0_error, uncertainty)

    def _other_error(self, difference: Tensor, t: Tensor) -> Tensor:
        """The mean over elements of an error function other than the square: `(B, ...)` -> `(B,)`."""
        unit = over_batch(self.schedule.to_unit(t).to(difference.dtype), difference)
        return self.error.of(difference, self._level(t, difference), unit).flatten(1).mean(dim=1)

    def _level(self, t: Tensor, like: Tensor) -> NoiseLevel:
        """The levels at t `(B,)`, shaped to multiply `like` `(B, ...)`, in its dtype or in fp32 if that is wider."""
        return self.schedule.level(t, torch.promote_types(like.dtype, torch.float32)).over_batch(like)

    def _grid_level(self) -> NoiseLevel:
        return self.schedule.level(self.schedule.grid(), torch.float64)

    def _weight_on_grid(self) -> Tensor:
        level = self.schedule.level_and_rate(self.schedule.grid(), torch.float64)
        return self.weighting.weight_of_target(self.target, level)

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
        if not isinstance(self.error, Squared) and self.weighting.space not in ("target", TARGETS.name_of(self.target)):
            warnings.warn(
                f"Weighting {name!r} is stated for a squared error in {self.weighting.space}, and carries over exactly "
                f"to no other error: error {ERRORS.name_of(self.error)!r} gets the weight that the squared error in "
                f"target {TARGETS.name_of(self.target)!r} would have.",
                stacklevel=3,
            )
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

"""Continuous noise schedules, whose timestep t is any real number from 0 to 1."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from latentdebias.diffusion.noise_level import SMALLEST_SIGMA, NoiseLevel
from latentdebias.diffusion.schedules.schedule import SCHEDULES, Schedule
from latentdebias.errors import UserError


class ContinuousSchedule(Schedule):
    """Base class of schedules on which t in [0, 1] is itself the share of the schedule that lies below it."""

    def from_unit(self, u: Tensor) -> Tensor:
        return u

    def to_unit(self, t: Tensor) -> Tensor:
        return t

    def grid(self) -> Tensor:
        return torch.linspace(0, 1, 1001, dtype=torch.float64)


@SCHEDULES.register("flow")
@dataclass(frozen=True, kw_only=True)
class Flow(ContinuousSchedule):
    """The linear path alpha = 1 - sigma, with t in [0, 1] and the resolution shift of SD3.

    sigma = shift t / (1 + (shift - 1) t)   (Esser et al. 2024, eq. 23); the network is told 1000 sigma. `shift: auto`
    is sqrt(C h w / 4096) for latents of shape (C, h, w), RAE's dimension shift (Zheng et al. 2025, arXiv:2510.11690).
    """

    shift: PositiveFloat | Literal["auto"] = 1.0

    def for_latents(self, shape: tuple[int, int, int] | None) -> "Flow":
        if self.shift != "auto" or shape is None:
            return self
        return Flow(shift=math.sqrt(math.prod(shape) / 4096))

    @property
    def _shift(self) -> float:
        if self.shift == "auto":
            raise UserError(
                "Schedule flow with shift 'auto' depends on the shape of the latents: state it in data.latent_shape, "
                "or give shift a number, sqrt(C h w / 4096)."
            )
        return self.shift

    def _sigma(self, t: Tensor) -> Tensor:
        return self._shift * t / (1 + (self._shift - 1) * t)

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        sigma = self._sigma(t.to(dtype))
        return NoiseLevel(1 - sigma, sigma)

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        t = t.to(dtype)
        level = self.level(t, dtype).inside()
        return 2 * self._shift / ((1 + (self._shift - 1) * t) ** 2 * level.sigma * level.alpha)

    def unit_at(self, ratio: Tensor) -> Tensor:
        return self.from_model_time(1000 * ratio / (1 + ratio))

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * self._sigma(t)

    def from_model_time(self, time: Tensor) -> Tensor:
        sigma = time / 1000
        return sigma / (self._shift - (self._shift - 1) * sigma)


@SCHEDULES.register("edm")
@dataclass(frozen=True, kw_only=True)
class EdmLevels(ContinuousSchedule):
    """EDM's noise levels s from sigma_min to sigma_max, log s linear in t in [0, 1] (Karras et al. 2022, table 1).

    The path is scaled to preserve variance, alpha = 1 / sqrt(1 + s^2) and sigma = s alpha, so that z = alpha x of EDM's
    x = x0 + s eps: what target edm shows the network is the same. The network is told c_noise = log(s) / 4, for which
    it needs a time embedding of real numbers, not a table.
    """

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")

    def _log_ratio(self, t: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return low + (high - low) * t

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        ratio = self._log_ratio(t.to(dtype)).exp()
        alpha = torch.rsqrt(1 + ratio**2)
        return NoiseLevel(alpha, ratio * alpha)

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full_like(t, 2 * math.log(self.sigma_max / self.sigma_min), dtype=dtype)

    def unit_at(self, ratio: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((ratio.log() - low) / (high - low)).clamp(0, 1)

    def model_time(self, t: Tensor) -> Tensor:
        return self._log_ratio(t) / 4

    def from_model_time(self, time: Tensor) -> Tensor:
        return self.unit_at((4 * time).exp())


@SCHEDULES.register("trig")
@dataclass(frozen=True, kw_only=True)
class Trig(ContinuousSchedule):
    """alpha = cos(pi t / 2) and sigma = sin(pi t / 2), t in [0, 1]: SiT's GVP path, and TrigFlow's.

    Ma et al. 2024 (arXiv:2401.08740), table 1; Lu & Song 2024 (arXiv:2410.11081), whose angle is pi t / 2. It preserves
    variance, and target v is its velocity but for the factor pi / 2. With a `shift` other than 1, sigma / alpha is
    shift tan(pi t / 2): simple diffusion's shifted cosine (Hoogeboom et al. 2023, arXiv:2301.11093), whose shift for
    images of side d is d / 64. The network is told 1000 t.
    """

    shift: PositiveFloat = 1.0

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        angle = t.to(dtype) * (math.pi / 2)
        # The cosine of the rounded pi / 2 is not 0, and below it may be negative.
        alpha, sigma = torch.cos(angle).clamp(min=0), self.shift * torch.sin(angle)
        norm = torch.hypot(alpha, sigma)
        return NoiseLevel(alpha / norm, sigma / norm)

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        angle = t.to(dtype) * math.pi
        # 1 / (sin x cos x) = 2 / sin 2x, for any shift.
        return 2 * math.pi / torch.sin(angle).clamp(min=SMALLEST_SIGMA)

    def unit_at(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio / self.shift) * (2 / math.pi)

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * t

    def from_model_time(self, time: Tensor) -> Tensor:
        return time / 1000


@SCHEDULES.register("laplace")
@dataclass(frozen=True, kw_only=True)
class LaplaceSchedule(ContinuousSchedule):
    """log SNR = mu - b sgn(1/2 - t) ln(1 - 2 |t - 1/2|), so that a uniform t gives it a Laplace distribution.

    Hang et al. 2024 (arXiv:2407.03297), eq. 8, with mu = 0 and b = 0.5; alpha^2 = sigmoid(log SNR), so the path
    preserves variance. log SNR is cut off at mu - `reach` and mu + `reach`, beyond which the formula goes to infinity.
    The network is told 1000 t.
    """

    mu: float = 0.0
    b: PositiveFloat = 0.5
    reach: PositiveFloat = 15.0

    def _log_snr(self, t: Tensor) -> Tensor:
        distance = t - 0.5
        # -ln(1 - 2 |t - 1/2|) is 0 in the middle and infinite at both ends.
        out = (-self.b * torch.log1p(-2 * distance.abs())).clamp(max=self.reach)
        return self.mu - distance.sign() * out

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        log_snr = self._log_snr(t.to(dtype))
        return NoiseLevel(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        left = 1 - 2 * (t.to(dtype) - 0.5).abs()
        return 2 * self.b / left.clamp(min=math.exp(-self.reach / self.b))

    def unit_at(self, ratio: Tensor) -> Tensor:
        distance = 2 * ratio.log() + self.mu
        return 0.5 + 0.5 * distance.sign() * (1 - torch.exp(-distance.abs() / self.b))

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * t

    def from_model_time(self, time: Tensor) -> Tensor:
        return time / 1000

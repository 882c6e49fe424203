"""Discrete noise schedules: tables of alpha^2 over T timesteps, from the variances beta of the forward steps."""

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentdebias.diffusion.noise_level import NoiseLevel
from latentdebias.diffusion.schedules.schedule import SCHEDULES, Schedule
from latentdebias.errors import UserError

Beta = Annotated[float, Field(gt=0, lt=1)]


def previous_of(alphas_cumprod: Tensor) -> Tensor:
    """alphas_cumprod one timestep earlier, 1 before the first: `(T,)` -> `(T,)`."""
    return torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])


def betas_of(alphas_cumprod: Tensor) -> Tensor:
    """Variances of the forward steps, 1 - alphas_cumprod(t) / alphas_cumprod(t - 1): `(T,)` -> `(T,)`."""
    return 1 - alphas_cumprod / previous_of(alphas_cumprod)


@dataclass(frozen=True, kw_only=True)
class DiscreteSchedule(Schedule):
    """A variance-preserving table of `alphas_cumprod` = alpha^2; t counts from 0 to num_timesteps - 1.

    `zero_terminal_snr` rescales sqrt(alphas_cumprod) so that it ends at 0 (Lin et al. 2023, algorithm 1). The network
    is told t + first_time: U-ViT counts from 1.
    """

    num_timesteps: Annotated[int, Field(gt=0, le=10**6)] = 1000
    zero_terminal_snr: bool = False
    first_time: Literal[0, 1] = 0

    @abstractmethod
    def betas(self) -> Tensor:
        """Variances of the forward steps before `zero_terminal_snr` rescales them: `(T,)`, fp64."""

    @functools.cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha^2 by t: `(T,)`, fp64."""
        alphas_cumprod = torch.cumprod(1 - self.betas(), dim=0)
        return _rescale_to_zero_terminal_snr(alphas_cumprod) if self.zero_terminal_snr else alphas_cumprod

    @functools.cached_property
    def _tables(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    def level(self, t: Tensor, dtype: torch.dtype = torch.float32) -> NoiseLevel:
        return NoiseLevel(*self._table(t.device, dtype)[:, t.long()])

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """alpha, sigma and beta of every timestep: `(3, T)`, one tensor so that a batch is looked up at once."""
        key = (device, dtype)
        if key not in self._tables:
            alphas_cumprod = self.alphas_cumprod
            rows = (alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), betas_of(alphas_cumprod))
            self._tables[key] = torch.stack(rows).to(*key)
        return self._tables[key]

    def log_snr_rate(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The difference of log SNR between the timesteps on either side of t, at the ends to the one beside it."""
        return self._rates.to(t.device, dtype)[t.long()]

    @functools.cached_property
    def _rates(self) -> Tensor:
        log_snr = self.level(self.grid(), torch.float64).log_snr
        if len(log_snr) == 1:
            return torch.full_like(log_snr, math.nan)
        return -torch.gradient(log_snr)[0] * self.num_timesteps

    def from_unit(self, u: Tensor) -> Tensor:
        return (u * self.num_timesteps).long().clamp(0, self.num_timesteps - 1)

    def to_unit(self, t: Tensor) -> Tensor:
        return t / self.num_timesteps

    def unit_at(self, ratio: Tensor) -> Tensor:
        alpha, sigma, _ = self._table(ratio.device, ratio.dtype)
        log_ratios, log_ratio = sigma.log() - alpha.log(), ratio.log()
        above = torch.searchsorted(log_ratios, log_ratio).clamp(1, self.num_timesteps - 1)
        below_is_nearer = log_ratio - log_ratios[above - 1] < log_ratios[above] - log_ratio
        # The middle of the step's share of the unit interval, from which `from_unit` finds it again.
        return (above - below_is_nearer.long() + 0.5) / self.num_timesteps

    def model_time(self, t: Tensor) -> Tensor:
        return t + self.first_time

    def from_model_time(self, time: Tensor) -> Tensor:
        return time.long() - self.first_time

    def grid(self) -> Tensor:
        return torch.arange(self.num_timesteps)


def _rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    alpha = alphas_cumprod.sqrt()
    first, last = alpha[0].clone(), alpha[-1].clone()
    return ((alpha - last) * first / (first - last)) ** 2


@SCHEDULES.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(DiscreteSchedule):
    """beta linear in t from beta_start to beta_end (Ho et al. 2020); the Debias paper's schedule.

    The two ends are stated for 1000 timesteps. `beta_range` says what they are for another number T of them: `adm`
    multiplies both by 1000 / T, so that the noise at the last timestep stays what it is, as ADM, DiT, Min-SNR and
    Debias do; `diffusers` takes them as they are.
    """

    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    beta_range: Literal["adm", "diffusers"] = "adm"

    def __post_init__(self) -> None:
        if self.ends()[1] >= 1:
            raise UserError(
                f"beta_end {self.beta_end} is multiplied by 1000 / {self.num_timesteps}, for so many timesteps, and "
                f"a beta must be below 1; choose num_timesteps above {1000 * self.beta_end:g}, a smaller beta_end, or "
                f"beta_range diffusers, which leaves it as it is"
            )

    def ends(self) -> tuple[float, float]:
        """The first and the last beta of the table."""
        scale = 1000 / self.num_timesteps if self.beta_range == "adm" else 1.0
        return scale * self.beta_start, scale * self.beta_end

    def betas(self) -> Tensor:
        return torch.linspace(*self.ends(), self.num_timesteps, dtype=torch.float64)


@SCHEDULES.register("scaled_linear")
@dataclass(frozen=True, kw_only=True)
class ScaledLinear(DiscreteSchedule):
    """sqrt(beta) linear in t between the roots of its two ends (Stable Diffusion, Rombach et al. 2022)."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012

    def ends(self) -> tuple[float, float]:
        """The first and the last beta of the table."""
        return self.beta_start, self.beta_end

    def betas(self) -> Tensor:
        root = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_timesteps, dtype=torch.float64)
        return root**2


@SCHEDULES.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(DiscreteSchedule):
    """alpha^2 = cos^2(pi/2 (t + s)/(1 + s)), s = 0.008, betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17)."""

    offset: float = 0.008
    max_beta: float = 0.999

    def betas(self) -> Tensor:
        unit = torch.linspace(0, 1, self.num_timesteps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((unit + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.max_beta)


@SCHEDULES.register("sigmoid")
@dataclass(frozen=True, kw_only=True)
class Sigmoid(DiscreteSchedule):
    """beta a sigmoid in t over [-6, 6] between its two ends (GeoDiff, Xu et al. 2022)."""

    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02

    def betas(self) -> Tensor:
        curve = torch.linspace(-6, 6, self.num_timesteps, dtype=torch.float64).sigmoid()
        return curve * (self.beta_end - self.beta_start) + self.beta_start


@SCHEDULES.register("table")
@dataclass(frozen=True, kw_only=True)
class Table(DiscreteSchedule):
    """Any table of alphas_cumprod, as `Diffusion.from_diffusers` reads it off a scheduler."""

    table: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_timesteps", len(self.table))

    def betas(self) -> Tensor:
        return betas_of(torch.tensor(self.table, dtype=torch.float64))

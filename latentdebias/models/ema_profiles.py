"""Power-function averages (EMA) of weights: their profiles, and how to combine stored averages into any other.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), section 3
and appendix C. All in fp64. The relative width of an average is the standard deviation of its profile over the time t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latentdebias.errors import UserError

# The uniform average, gamma = 0, has width 12^(-1/2) = 0.2887.
MIN_STD, MAX_STD = 0.001, 0.288


def gamma_of(std: float) -> float:
    """The exponent gamma of relative width `std`: the positive root of g^3 + 7 g^2 + (16 - std^-2) g + 12 - std^-2.

    There is exactly one positive root for 0 < std < 12^(-1/2), because the coefficients change sign once.
    """
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots.real.max())


def std_of(gamma: float) -> float:
    """The relative width of exponent `gamma`: (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2)."""
    return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


def beta(gamma: float, step: int) -> float:
    """The decay of the average at step t, counted from 1: beta_gamma(t) = (1 - 1/t)^(gamma + 1)."""
    return (1 - 1 / step) ** (gamma + 1)


def name_of_std(std: float) -> str:
    """The name of an average of relative width `std`, such as std0.050; `UserError` where there is no such average."""
    if not MIN_STD <= std <= MAX_STD:
        raise UserError(
            f"There is no power-function average of relative width {std:g}. Legal here: {MIN_STD} to {MAX_STD}; 0.05 "
            f"and 0.1 are common."
        )
    if round(std, 3) != std:
        raise UserError(f"Relative widths have three decimals, and {std!r} has more; the nearest is {std:.3f}.")
    return f"std{std:.3f}"


@dataclass(frozen=True)
class Profile:
    """The profile of the average of relative width `std` at step t.

    The average weights the parameters theta(tau), 0 <= tau <= t, by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1).
    """

    step: int
    std: float

    @cached_property
    def gamma(self) -> float:
        return gamma_of(self.std)


def inner_product(p: Profile, q: Profile) -> float:
    """The inner product <p, q>: the integral of p(tau) q(tau) over tau.

    With s <= t the steps of p and q, it is (g_p + 1) (g_q + 1) / (g_p + g_q + 1) (s / t)^(g_q) / t.
    """
    if p.step > q.step:
        p, q = q, p
    share = (p.step / q.step) ** q.gamma
    return (p.gamma + 1) * (q.gamma + 1) / (p.gamma + q.gamma + 1) * share / q.step


def coefficients(snapshots: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """The x `(N,)` that minimises ||sum_i x_i p_i - p|| subject to sum_i x_i = 1.

    p_i are the profiles of the snapshots, p is the wanted one. The constraint is not in the paper: it reproduces a
    weight that never changes exactly.
    """
    count = len(snapshots)
    gram, target = _normal_equations(snapshots, wanted)
    system = np.ones((count + 1, count + 1))
    system[:count, :count], system[count, count] = gram, 0
    return np.linalg.lstsq(system, np.append(target, 1), rcond=None)[0][:count]


def profile_error(snapshots: Sequence[Profile], x: np.ndarray, wanted: Profile) -> float:
    """The relative error ||sum_i x_i p_i - p|| / ||p|| of the profile; 0 for an exact reconstruction."""
    gram, target = _normal_equations(snapshots, wanted)
    norm = wanted.step * inner_product(wanted, wanted)
    return float(np.sqrt(max(x @ gram @ x - 2 * x @ target + norm, 0) / norm))


def _normal_equations(snapshots: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, np.ndarray]:
    """The matrix <p_i, p_j> `(N, N)` and the vector <p_i, p> `(N,)`.

    Both are multiplied by the wanted step, so that they do not shrink with the length of the run.
    """
    gram = [[inner_product(p, q) for q in snapshots] for p in snapshots]
    target = [inner_product(p, wanted) for p in snapshots]
    return wanted.step * np.array(gram), wanted.step * np.array(target)

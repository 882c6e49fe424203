"""Random numbers that are a function of a seed and of counters alone, with the same bits on every device.

The integers are Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The normal numbers
are made of them by Box and Muller's transform, in fp64 and from nothing but sums, products, quotients and square roots:
IEEE 754 rounds these alike everywhere, while the logarithms and cosines of two devices differ in their last bits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF

# log m = 2 (s + s^3/3 + s^5/5 + ...) with s = (m - 1) / (m + 1); |s| is at most 0.172 here, and the rest below 1e-12.
LOG_SERIES = [1 / (2 * k + 1) for k in range(8)]
# Taylor's series of sin(x) / x and of cos(x) in x^2; x is at most pi/2 here, and the rest below 1e-12.
SIN_SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in range(10)]
COS_SERIES = [(-1) ** k / math.factorial(2 * k) for k in range(10)]


def random_integers(seed: int, positions: Tensor, stream: int, count: int) -> Tensor:
    """`count` integers of [0, 2^32) for each of the int64 `positions` `(B,)`: int64 `(B, count)`, on their device.

    A row depends on the seed (below 2^64), its position and the number of the `stream` (below 2^32), and on nothing
    else in the batch. The first `count` numbers of a row are the same for every `count`.
    """
    blocks = torch.arange(-(-count // 4), device=positions.device)[None]
    places = positions[:, None]
    counter = [blocks, torch.full_like(blocks, stream), places & LOW, (places >> 32) & LOW]
    return torch.stack(_philox(counter, (seed & LOW, seed >> 32)), dim=-1).flatten(1)[:, :count]


def _philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10 of four int64 tensors and two numbers, all in [0, 2^32) -> four such tensors, broadcast."""
    first, second, third, fourth = torch.broadcast_tensors(*counter)
    low_key, high_key = key
    for _ in range(ROUNDS):
        # A product of two 32-bit numbers wraps around in int64, and has all of its 64 bits there.
        left, right = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        first = ((right >> 32) & LOW) ^ second ^ low_key
        third = ((left >> 32) & LOW) ^ fourth ^ high_key
        second, fourth = right & LOW, left & LOW
        low_key, high_key = (low_key + KEY_STEPS[0]) & LOW, (high_key + KEY_STEPS[1]) & LOW
    return [first, second, third, fourth]


def standard_normal(seed: int, positions: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 `(B, *shape)`, for the int64 `positions` `(B,)`; see `random_integers`."""
    count = math.prod(shape)
    pairs = -(-count // 2)
    radius_bits, angle_bits = random_integers(seed, positions, stream, 2 * pairs).unflatten(1, (pairs, 2)).unbind(-1)
    radius = (-2 * _log((radius_bits + 1).double() / 2**32)).sqrt()
    sine, cosine = _sine_and_cosine(angle_bits)
    normal = torch.stack([radius * cosine, radius * sine], dim=-1).float()
    return normal.flatten(1)[:, :count].unflatten(1, tuple(shape))


def _log(x: Tensor) -> Tensor:
    """The natural logarithm of fp64 numbers above 0, to 1e-12."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa, exponent = torch.where(small, 2 * mantissa, mantissa), torch.where(small, exponent - 1, exponent)
    s = (mantissa - 1) / (mantissa + 1)
    return exponent.double() * math.log(2) + 2 * s * _polynomial(LOG_SERIES, s * s)


def _sine_and_cosine(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of 2 pi `turns` / 2^32, for int64 `turns` in [0, 2^32), to 1e-12."""
    quadrant = turns >> 30
    x = (turns & (2**30 - 1)).double() * (math.pi / 2**31)
    square = x * x
    sine, cosine = x * _polynomial(SIN_SERIES, square), _polynomial(COS_SERIES, square)
    odd = (quadrant & 1).bool()
    sine, cosine = torch.where(odd, cosine, sine), torch.where(odd, sine, cosine)
    return torch.where(quadrant >= 2, -sine, sine), torch.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """The sum of coefficients[k] x^k, by Horner's rule; product and sum are rounded one by one, on every device."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x
        value = value + coefficient
    return value

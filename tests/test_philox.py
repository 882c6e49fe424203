"""Philox against its published vectors, and the normal numbers made of it."""

import math

import pytest
import torch

from latentdebias.philox import _log, _philox, _sine_and_cosine, random_integers, standard_normal

# Random123's known answers for philox4x32-10: counter, key, result.
ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_it_is_the_published_generator(counter, key, expected):
    found = _philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in found) == expected


def test_a_row_depends_on_its_own_position_alone():
    positions = torch.tensor([5, 2**40, 7])
    together = random_integers(3, positions, 1, 10)
    for row, position in zip(together, positions, strict=True):
        assert torch.equal(random_integers(3, position[None], 1, 6)[0], row[:6])
    others = [random_integers(4, positions, 1, 10), random_integers(3, positions, 2, 10)]
    assert not any(torch.equal(together[row], other[row]) for other in others for row in range(3))
    assert len(together.unique()) == together.numel()


def test_the_numbers_are_normal():
    numbers = standard_normal(0, torch.arange(4000), 0, (2, 5, 5))
    assert numbers.shape == (4000, 2, 5, 5)
    assert numbers.dtype == torch.float32
    found = numbers.flatten().double().sort().values
    expected = (torch.arange(len(found)) + 0.5) / len(found)
    # Kolmogorov and Smirnov: 1.63 / sqrt(n) is passed once in a hundred.
    assert (torch.special.ndtr(found) - expected).abs().max() < 1.63 / math.sqrt(len(found))
    pairs = numbers.flatten(1)
    assert (pairs[:, 0::2] * pairs[:, 1::2]).mean().abs() < 4 / math.sqrt(len(found) / 2)


def test_logarithm_sine_and_cosine_are_those_of_torch():
    x = torch.cat([torch.tensor([2.0**-32, 0.5, 1.0]), torch.rand(1000)]).double()
    torch.testing.assert_close(_log(x), x.log(), rtol=1e-11, atol=1e-12)
    turns = torch.cat([torch.arange(4) << 30, torch.randint(2**32, (1000,))])
    angle = turns.double() * (2 * math.pi / 2**32)
    for found, expected in zip(_sine_and_cosine(turns), (angle.sin(), angle.cos()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)

"""Paired comparisons against closed forms."""

import math

import pytest

from latentdebias.studies.significance import compare_paired


def test_three_pairs_on_one_side():
    """Of 8 sign flips two are as far out; Student's t with 2 degrees of freedom has p = 1 - t / sqrt(t^2 + 2)."""
    compared = compare_paired([1.0, 2.0, 3.0])
    t = 2 / (1 / math.sqrt(3))
    assert (compared.pairs, compared.mean, compared.spread) == (3, 2.0, 1.0)
    assert compared.p_permutation == 2 / 8
    assert compared.p_t == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_sign_flips_are_counted_exactly():
    """Sums of +-1 +-2 +-4: as far from 0 as 4 + 1 - 2 = 3 are +-7, +-5 and +-3."""
    assert compare_paired([4.0, 1.0, -2.0]).p_permutation == 6 / 8
    assert compare_paired([1e-3, 2e-3, 3e-3, 4e-3, 5e-3]).p_permutation == 2 / 32


def test_what_too_few_pairs_cannot_say_is_nan():
    single = compare_paired([2.0])
    assert single.p_permutation == 1
    assert math.isnan(single.p_t)
    assert math.isnan(single.spread)
    assert math.isnan(compare_paired([]).mean)
    assert math.isnan(compare_paired([1.0] * 17).p_permutation)

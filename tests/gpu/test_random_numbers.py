"""The random numbers that are a function of (seed, position) have the same bits on a GPU."""

import torch

from latentdebias.philox import random_integers, standard_normal


def test_integers_and_normal_numbers_are_those_of_a_cpu(device, no_waiting):
    positions = torch.arange(2**40, 2**40 + 64)
    on_device = positions.to(device)
    standard_normal(0, on_device, 0, (1,))
    with no_waiting():
        integers, normal = random_integers(5, on_device, 1, 256), standard_normal(5, on_device, 0, (2, 4, 32, 32))
    assert torch.equal(integers.cpu(), random_integers(5, positions, 1, 256))
    assert torch.equal(normal.cpu(), standard_normal(5, positions, 0, (2, 4, 32, 32)))

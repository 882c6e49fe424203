import numpy as np
import pytest
import torch
from random_sets import feature_set, random_images

from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.metrics.colour import RINGS, colour_statistics


def wave(frequency, size=32, amplitude=40.0, mean=128.0):
    """An image whose rows are all one cosine of `frequency` cycles, as floating-point levels."""
    row = mean + amplitude * torch.cos(2 * torch.pi * frequency * torch.arange(size) / size)
    return row.expand(1, 3, size, size)


def shift(samples, reference):
    sets = (feature_set(torch.zeros(len(each), 1), colour=colour_statistics(each)) for each in (samples, reference))
    return METRICS.build("colour_shift").measure(*sets)


def test_the_means_are_the_channels():
    images = random_images(5, 16)
    found = colour_statistics(images)
    assert found.shape == (5, 3 + RINGS)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[:, :3], images.double().mean((2, 3)))


@pytest.mark.parametrize("frequency", [1, 3, 8])
def test_a_wave_has_its_power_in_its_own_ring(frequency):
    """A cosine of amplitude A has two coefficients of (A / 2)^2; the ring's mean is over all that it holds."""
    power = colour_statistics(wave(frequency))[0, 3:]
    grid = np.fft.fftfreq(32, 1 / 32)
    size = (np.rint(np.hypot(grid[:, None], grid[None])) == frequency).sum()
    assert power[frequency - 1].item() == pytest.approx(2 * 20**2 / size)
    assert power.sum().item() == pytest.approx(power[frequency - 1].item())


def test_the_power_is_that_of_numpys_transform():
    images = random_images(2, 20)
    pixels = images[0].double().numpy()
    spectrum = np.abs(np.fft.fft2(pixels)) ** 2 / 400**2
    grid = np.fft.fftfreq(20, 1 / 20)
    ring = np.rint(np.hypot(grid[:, None], grid[None]))
    expected = [spectrum[:, ring == number].mean() for number in range(1, RINGS + 1)]
    np.testing.assert_allclose(colour_statistics(images)[0, 3:], expected)


def test_brighter_red_is_a_shift_of_red():
    reference = random_images(40, 16) // 2
    samples = reference.clone()
    samples[:, 0] += 9
    scores = shift(samples, reference)
    assert scores["colour_shift_red"] == pytest.approx(9)
    assert scores["colour_shift_green"] == scores["colour_shift_blue"] == 0
    assert scores["colour_shift"] == pytest.approx(9 / 3**0.5)
    assert scores["spectrum_shift"] == pytest.approx(0, abs=1e-9)


def test_half_the_contrast_is_6_decibels_less():
    samples = 128 + (random_images(10, 16) - 128.0) / 2
    assert shift(samples, random_images(10, 16))["spectrum_shift"] == pytest.approx(-20 * np.log10(2))


def test_images_smaller_than_a_ring_have_no_power_there():
    scores = shift(random_images(10, 4), random_images(10, 4, seed=1))
    assert np.isfinite(scores["spectrum_shift"])


def test_without_pixels_there_is_no_shift():
    a = feature_set(torch.zeros(5, 1))
    assert METRICS.build("colour_shift").measure(a, a) == {}

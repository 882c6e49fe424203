import numpy as np
import pytest
import torch

from latentdebias.registry import validate
from latentdebias.shards.format import Plan
from latentdebias.shards.posterior import draw_latents, moments_of, to_stored
from latentdebias.shards.statistics import LatentSums


@pytest.fixture
def plan():
    """The plan of latents `(3, 4, 4)`, without what these functions do not read."""

    def make(**changes):
        return Plan(
            autoencoder={},
            precision="float32",
            resolution=32,
            preprocessing="",
            latent_shape=(3, 4, 4),
            flips=False,
            samples_per_shard=1,
            num_inputs=1,
            inputs_sha256="",
            num_classes=0,
            class_names=[],
            **changes,
        )

    return make


def test_a_set_without_these_fields_is_a_gaussian_one_in_float16(plan):
    old = {name: value for name, value in vars(plan()).items() if name not in ("posterior", "dtype")}
    read = validate(Plan, old, "plan.json")
    assert (read.posterior, read.dtype, read.stored_shape) == ("gaussian", "float16", (6, 4, 4))


def test_every_level_of_a_pixel_survives(plan):
    pixels = np.resize((torch.arange(256).float() / 127.5 - 1).numpy(), (6, 3, 4, 4))
    pixels_plan = plan(posterior="deterministic", dtype="uint8")
    stored = to_stored(pixels, pixels_plan)
    assert set(stored.ravel().tolist()) == set(range(256))
    assert np.array_equal(draw_latents(torch.from_numpy(stored), torch.ones(6, 3, 4, 4), pixels_plan).numpy(), pixels)


def test_pixels_out_of_range_are_clipped(plan):
    stored = to_stored(np.full((1, 3, 4, 4), 1.5, np.float32), plan(posterior="deterministic", dtype="uint8"))
    assert set(stored.ravel().tolist()) == {255}


def test_what_float16_cannot_hold_becomes_infinite(plan):
    assert np.isinf(to_stored(np.full((1, 6, 4, 4), 1e6, np.float32), plan())).all()


def test_gaussian_draws_are_mean_plus_standard_deviation_times_noise(plan):
    moments = torch.cat([torch.full((2, 3, 4, 4), 5.0), torch.full((2, 3, 4, 4), 2 * np.log(3.0))], 1).half()
    latents = draw_latents(moments, torch.full((2, 3, 4, 4), -1.0), plan())
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, torch.full((2, 3, 4, 4), 2.0), atol=2e-3, rtol=0)


def test_a_deterministic_latent_adds_no_variance_to_the_statistics(plan):
    stored = np.array([1, 3], np.float16).repeat(24).reshape(3, 4, 4)
    sums = LatentSums.of(moments_of(stored, plan(posterior="deterministic")))
    np.testing.assert_allclose(sums.mean(), stored.mean(axis=(1, 2)))
    np.testing.assert_allclose(sums.std(), stored.std(axis=(1, 2)))


def test_a_constant_channel_has_no_standard_deviation_and_is_no_error():
    sums = LatentSums.of(np.stack([np.full((4, 4), 0.1, np.float32), np.full((4, 4), -np.inf, np.float32)]))
    assert LatentSums.merge([sums] * 7, 1).std()[0] < 1e-6

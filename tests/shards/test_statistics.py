import numpy as np

from latentdebias.shards.statistics import LatentSums


def test_streamed_statistics_equal_those_of_drawn_latents():
    """Against 200 draws a sample: z = mean + exp(logvar / 2) * noise."""
    rng = np.random.default_rng(0)
    moments = rng.normal([[[0.0]], [[1.0]], [[-1.0]], [[0.5]]], 1.0, (50, 4, 8, 8))
    sums = LatentSums.merge([LatentSums.of(sample) for sample in moments], 2)
    mean, logvar = np.split(moments, 2, axis=1)
    draws = mean + np.exp(logvar / 2) * rng.standard_normal((200, *mean.shape))
    np.testing.assert_allclose(sums.mean(), draws.mean(axis=(0, 1, 3, 4)), atol=0.005)
    np.testing.assert_allclose(sums.std(), draws.std(axis=(0, 1, 3, 4)), rtol=0.005)


def test_merge_adds_in_order_and_of_nothing_is_zero():
    parts = [LatentSums(1, [1.0], [2.0]), LatentSums(3, [10.0], [20.0])]
    assert LatentSums.merge(parts, 1) == LatentSums(4, [11.0], [22.0])
    assert LatentSums.merge([], 2) == LatentSums(0, [0.0, 0.0], [0.0, 0.0])

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentdebias.batches.draws import SampleDraws
from latentdebias.batches.loader import LatentBatches
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.batches.options import DataOptions
from latentdebias.batches.plan import plan_batches
from latentdebias.errors import UserError
from latentdebias.registry import validate
from latentdebias.shards.reader import LatentShards

CPU = torch.device("cpu")


class Batches(LatentBatches):
    """Batches that are taken out by the number of their micro-step."""

    def __getitem__(self, micro_step):
        return next(self.of(range(micro_step, micro_step + 1)))

    def indices(self, positions):
        return self.shards.order.indices(self.plan.seed, positions, len(self))

    def __len__(self):
        return self.shards.manifest.count


@pytest.fixture
def batches(digit_shards):
    def build(rank=0, world_size=1, batch_size=8, micro=None, seed=0, **options):
        data = validate(DataOptions, {"shards": str(digit_shards), **options}, "the test")
        shards = data.reader.open(data)
        normalization = LatentNormalization.of_manifest(shards.manifest, "channel")
        return Batches(shards, plan_batches(seed, batch_size, micro, rank, world_size), data, normalization)

    return build


def joined(parts):
    return [torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "labels", "eps", "u", "row")]


def assert_same(left, right):
    for a, b in zip(joined(left), joined(right), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("noise", ["host", "device"])
def test_the_global_batch_is_the_same_for_any_number_of_ranks_and_micro_batches(batches, noise):
    whole = [batches(noise=noise)[5]]
    assert_same(whole, [batches(rank=r, world_size=4, noise=noise)[5] for r in range(4)])
    accumulated = batches(micro=2, noise=noise)
    assert_same(whole, [accumulated[5 * 4 + i] for i in range(4)])
    shares = [batches(rank=r, world_size=2, micro=2, noise=noise) for r in range(2)]
    assert_same(whole, [share[5 * 2 + i] for i in range(2) for share in shares])


@pytest.mark.parametrize(("workers", "noise"), [(0, "host"), (1, "host"), (2, "host"), (0, "device"), (2, "device")])
def test_batches_do_not_depend_on_workers_or_on_where_a_run_resumed(batches, workers, noise):
    direct = batches(noise=noise)
    resumed = list(batches(workers=workers, noise=noise).loader(3, 6, CPU))
    assert_same([direct[step] for step in (3, 4, 5)], resumed)


def test_the_noise_of_a_device_changes_nothing_but_the_noise(batches):
    host, device = batches(flip=True)[5], batches(flip=True, noise="device")[5]
    for name in ("labels", "u", "row"):
        assert torch.equal(getattr(host, name), getattr(device, name))
    assert not torch.equal(host.eps, device.eps)
    assert not torch.equal(host.latents, device.latents)
    # Latents of the same images, under two draws from their posteriors; those of other images are not correlated.
    assert torch.corrcoef(torch.stack([host.latents.flatten(), device.latents.flatten()]))[0, 1] > 0.5


def test_a_worker_reads_what_is_stored_where_a_device_draws_the_noise(batches):
    (read,) = batches(noise="device").read(range(1))
    assert read.stored.dtype == torch.float16
    assert read.position.tolist() == list(range(8))


def test_an_epoch_reads_every_sample_once_and_another_epoch_in_another_order(batches):
    dataset = batches(batch_size=100)
    count = len(dataset)
    order = np.concatenate([dataset.indices(np.arange(s, s + 100)) for s in range(0, 2 * count + 100, 100)])
    first, second = order[:count], order[count : 2 * count]
    assert np.array_equal(np.sort(first), np.arange(count))
    assert np.array_equal(np.sort(second), np.arange(count))
    assert not np.array_equal(first, second)


def test_the_block_order_of_the_config_changes_the_order_of_samples_and_nothing_else(batches):
    blocks = {"name": "blocks", "block": 100, "blocks_in_window": 2}
    plain, dataset = batches(batch_size=100), batches(batch_size=100, order=blocks)
    count = len(dataset)
    first, second = plain.indices(np.arange(count)), dataset.indices(np.arange(count))
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(second), np.arange(count))
    assert torch.equal(plain[0].eps, dataset[0].eps)
    assert len(set((second[:200] // 100).tolist())) <= 2


def test_channel_normalization_gives_unit_latents(batches):
    dataset = batches(batch_size=256, flip=True)
    latents = torch.cat([dataset[step].latents for step in range(7)])
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=0.05)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=0.05)


def test_scaling_normalization_is_the_autoencoders(digit_shards):
    manifest = LatentShards(digit_shards).manifest
    normalization = LatentNormalization.of_manifest(manifest, "scaling")
    latents = torch.randn(2, 4, 4, 4)
    expected = (latents - manifest.autoencoder["shift_factor"]) * manifest.autoencoder["scaling_factor"]
    torch.testing.assert_close(normalization.normalize(latents), expected)
    torch.testing.assert_close(normalization.denormalize(expected), latents)


def test_latents_are_fresh_draws_from_the_posterior(batches):
    """The same sample in two epochs differs by posterior noise, within a few of its standard deviations."""
    dataset = batches(batch_size=1)
    count, shape = len(dataset), dataset.shards.latent_shape
    index = dataset.indices(np.arange(1))
    later = next(p for p in range(count, 2 * count) if dataset.indices(np.array([p])) == index)
    first, second = dataset[0].latents, dataset[later].latents
    assert not torch.equal(first, second)
    moments, _ = dataset.shards.shards.read(index, np.array([False]))
    mean, logvar = torch.from_numpy(moments).float().chunk(2, dim=1)
    draws = torch.from_numpy(SampleDraws.of(0, 0, shape).posterior)
    torch.testing.assert_close(first, dataset.normalization.normalize(mean + torch.exp(0.5 * logvar) * draws))


def test_labels_are_dropped_to_the_null_class_at_the_set_rate(batches):
    dataset = batches(batch_size=2000, label_drop=0.25)
    share = (dataset[0].labels == 10).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.04)
    assert (batches(batch_size=64, label_drop=0.0)[0].labels < 10).all()


def test_half_of_the_samples_are_mirrored(batches):
    plain, flipped = batches(batch_size=512), batches(batch_size=512, flip=True)
    differs = (plain[0].latents != flipped[0].latents).flatten(1).any(1).float().mean().item()
    assert differs == pytest.approx(0.5, abs=0.08)


def test_flips_need_mirrored_views(batches):
    dataset = batches()
    shards = dataset.shards
    shards.manifest = replace(shards.manifest, flips=False)
    with pytest.raises(UserError, match="--flip"):
        LatentBatches(shards, dataset.plan, replace(dataset.options, flip=True), dataset.normalization)


def test_a_batch_that_ranks_cannot_share_evenly_is_refused():
    with pytest.raises(UserError, match=r"training\.batch_size=12"):
        plan_batches(0, 10, None, 0, 4)


@pytest.mark.parametrize("noise", ["host", "device"])
def test_noise_is_standard_normal_and_never_repeats(batches, noise):
    eps = torch.cat([batches(batch_size=200, noise=noise)[step].eps for step in range(5)])
    assert eps.mean().abs() < 0.01
    assert abs(eps.std() - 1) < 0.01
    assert len(eps[:, 0, 0, 0].unique()) == 1000
    assert not torch.equal(batches(seed=1, noise=noise)[0].eps, batches(seed=0, noise=noise)[0].eps)

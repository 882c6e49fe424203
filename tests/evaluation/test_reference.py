import numpy as np
import pytest
import torch
from PIL import Image
from random_sets import feature_set, gaussian
from torch import nn

from latentdebias.errors import UserError
from latentdebias.evaluation import reference
from latentdebias.evaluation.evaluator import evaluate
from latentdebias.evaluation.extractors import Extractor, Features
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.image_files import FolderImages
from latentdebias.evaluation.sources.npz import NpzImages
from latentdebias.evaluation.statistics_cache import StatisticsCache, default_folder

DIM, SPATIAL = 6, 4


class FirstPixels(Extractor):
    """Features are an image's first pixels, spatial ones its last."""

    def __init__(self, identity="first pixels"):
        super().__init__(nn.Linear(1, 1), num_features=DIM, identity=identity)
        self.seen = 0

    def extract(self, images):
        self.seen += len(images)
        pixels = images.flatten(1).float()
        return Features(pixels[:, :DIM], pixels[:, :3], pixels[:, -SPATIAL:])


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    return tmp_path / "images"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "statistics"


def read(folder, cache, extractor=None, resolution=8):
    extractor = extractor or FirstPixels()
    return reference_features(FolderImages(str(folder), resolution, batch_size=5), extractor, cache), extractor.seen


def same(a, b):
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_the_second_time_nothing_is_extracted_and_everything_is_the_same(folder, cache):
    first, seen = read(folder, cache)
    again, seen_again = read(folder, cache)
    assert (seen, seen_again) == (12, 0)
    for name in ("features", "logits", "labels", "spatial", "colour"):
        assert same(getattr(first, name), getattr(again, name)), name
    for name in ("num_classes", "sha256", "distance", "count"):
        assert getattr(first, name) == getattr(again, name), name
    samples = feature_set(
        gaussian(30, DIM, 0), logits=torch.zeros(30, 3), spatial=gaussian(30, SPATIAL, 1), colour=first.colour
    )
    metrics = [METRICS.build(name) for name in ("fid", "sfid", "kid", "precision_recall", "colour_shift")]
    assert evaluate(samples, first, metrics) == evaluate(samples, again, metrics)


def test_the_moments_are_those_of_numpy(folder, cache):
    found, _ = read(folder, cache)
    features = found.features.double().numpy()
    np.testing.assert_allclose(found.moments.mean, features.mean(0))
    np.testing.assert_allclose(found.moments.cov, np.cov(features, rowvar=False))
    assert found.moments.mean.dtype == found.moments.cov.dtype == torch.float64


def change_a_pixel(folder):
    pixels = picture(3)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "b" / "3.png")


def rename_an_image(folder):
    (folder / "b" / "3.png").rename(folder / "b" / "30.png")


def move_to_another_class(folder):
    (folder / "b" / "3.png").rename(folder / "a" / "3.png")


@pytest.mark.parametrize("change", [change_a_pixel, rename_an_image, move_to_another_class])
def test_a_changed_set_misses_the_cache(folder, cache, change):
    read(folder, cache)
    change(folder)
    _, seen = read(folder, cache)
    assert seen == 12


def test_another_extractor_or_resolution_misses_the_cache(folder, cache):
    read(folder, cache)
    assert read(folder, cache, FirstPixels("other weights"))[1] == 12
    assert read(folder, cache, resolution=6)[1] == 12
    other = FirstPixels()
    other.resize = "another filter"
    assert read(folder, cache, other)[1] == 12
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:100], lambda data: data[: len(data) // 2]])
def test_a_damaged_file_is_replaced(folder, cache, damage):
    first, _ = read(folder, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again, seen = read(folder, cache)
    assert seen == 12
    assert same(first.features, again.features)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_named_before_any_work(folder, tmp_path):
    (tmp_path / "file").write_text("")
    extractor = FirstPixels()
    with pytest.raises(UserError, match="Cannot write"):
        read(folder, tmp_path / "file" / "statistics", extractor)
    assert extractor.seen == 0


def test_of_a_large_set_some_features_are_kept_and_the_moments_of_all(folder, cache, monkeypatch):
    whole, _ = read(folder, cache)
    monkeypatch.setattr(reference, "MAX_FEATURES", 4)
    found, seen = read(folder, cache / "other")
    again, _ = read(folder, cache / "other")
    assert seen == 12
    for images in (found, again):
        assert images.count == 12
        assert same(images.features, whole.features[[0, 3, 6, 9]])
        assert same(images.moments.cov, whole.moments.cov)
        assert images.sha256 == whole.sha256


def test_the_default_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTDEBIAS_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "statistics"
    monkeypatch.delenv("LATENTDEBIAS_CACHE")
    assert default_folder().parts[-3:] == (".cache", "latentdebias", "statistics")


def test_an_unknown_key_is_a_miss(tmp_path):
    assert StatisticsCache(tmp_path / "nowhere").read("0" * 64) is None


@pytest.fixture
def moments():
    features, spatial = gaussian(50, DIM, 1).double().numpy(), gaussian(50, SPATIAL, 2).double().numpy()
    return {
        "mu": features.mean(0),
        "sigma": np.cov(features, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
    }


def save(path, **arrays):
    np.savez(path, **arrays)
    return NpzImages(str(path))


def test_published_moments_score_as_the_features_that_they_are_of(tmp_path, cache, moments):
    samples = feature_set(gaussian(40, DIM, 3), logits=torch.zeros(40, 3), spatial=gaussian(40, SPATIAL, 4))
    images = feature_set(gaussian(50, DIM, 1), spatial=gaussian(50, SPATIAL, 2))
    found = reference_features(save(tmp_path / "adm.npz", **moments), FirstPixels(), cache)
    metrics = [METRICS.build(name) for name in METRICS.names()]
    expected = evaluate(samples, images, [METRICS.build("fid"), METRICS.build("sfid")])
    scores = evaluate(samples, found, metrics)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    # What needs the features is absent.
    assert not scores.keys() & {"kid", "precision", "recall", "density", "coverage", "colour_shift"}
    assert found.count == 0


def test_a_file_of_images_and_moments_gives_both(tmp_path, cache, moments):
    pixels = np.stack([picture(seed) for seed in range(9)])
    extractor = FirstPixels()
    source = save(tmp_path / "adm.npz", arr_0=pixels, **moments)
    found = reference_features(source, extractor, cache)
    again = reference_features(source, FirstPixels(), cache)
    for images in (found, again):
        assert len(images.features) == images.count == 9
        np.testing.assert_array_equal(images.moments.mean, moments["mu"])
        np.testing.assert_array_equal(images.spatial_moments.cov, moments["sigma_s"])
        assert images.sha256 == source.fingerprint()


def test_images_alone_give_their_own_moments(tmp_path, cache):
    pixels = np.stack([picture(seed) for seed in range(9)])
    found = reference_features(save(tmp_path / "adm.npz", arr_0=pixels), FirstPixels(), cache)
    features = pixels.transpose(0, 3, 1, 2).reshape(9, -1)[:, :DIM]
    np.testing.assert_allclose(found.moments.mean, features.mean(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": np.zeros(DIM + 1), "sigma": np.eye(DIM + 1)}, f"`mu` is of {DIM + 1} features.*extractor has {DIM}"),
        ({"sigma": np.eye(DIM)[:3]}, r"`sigma` is float64 \(3, 6\)"),
        ({"mu": np.zeros(DIM, dtype=np.int64)}, "`mu` is int64"),
        ({"mu": np.full(DIM, np.nan)}, "finite floats"),
        ({"mu": np.zeros(())}, r"`mu` is float64 \(\)"),
        ({"sigma": None}, "only one of `mu` and `sigma`"),
        ({"sigma_s": None}, "only one of `mu_s` and `sigma_s`"),
        ({"mu": None, "sigma": None}, "neither `arr_0` nor `mu`"),
        ({"mu": np.array([None, 1], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_bad_moments_are_named(tmp_path, cache, moments, change, message):
    arrays = {key: array for key, array in {**moments, **change}.items() if array is not None}
    with pytest.raises(UserError, match=message):
        reference_features(save(tmp_path / "adm.npz", **arrays), FirstPixels(), cache)


def test_spatial_moments_of_another_layer_are_named(tmp_path, cache, moments):
    moments |= {"mu_s": np.zeros(SPATIAL + 1), "sigma_s": np.eye(SPATIAL + 1)}
    found = reference_features(save(tmp_path / "adm.npz", **moments), FirstPixels(), cache)
    samples = feature_set(gaussian(40, DIM, 3), spatial=gaussian(40, SPATIAL, 4))
    with pytest.raises(UserError, match="5 spatial features"):
        evaluate(samples, found, [METRICS.build("sfid")])


def test_moments_alone_are_no_samples(tmp_path, moments):
    with pytest.raises(UserError, match="moments and no images"):
        _ = save(tmp_path / "adm.npz", **moments).resolution

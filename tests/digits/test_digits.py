"""The demo's images, the shipped weights, and the loops that trained them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from latentdebias.digits import AUTOENCODER_DIR, DigitsClassifier, load_classifier, write_images
from latentdebias.digits.classifier import CLASSIFIER_FILE, save_classifier
from latentdebias.digits.images import held_out_fifth, load_images
from latentdebias.digits.training import augment, train_autoencoder, train_classifier
from latentdebias.errors import UserError


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_images()
    mask = held_out_fifth(labels)
    pixels = torch.from_numpy(images[mask]).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    return pixels, torch.from_numpy(labels[mask]).long()


@pytest.fixture(scope="module")
def classifier() -> DigitsClassifier:
    return load_classifier()


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(AUTOENCODER_DIR).requires_grad_(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain little from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decode(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    return autoencoder.decode(latents).sample.add(1).div(2).clamp(0, 1)


def accuracy(classifier: DigitsClassifier, images: Tensor, labels: Tensor) -> float:
    return (classifier(images).argmax(dim=1) == labels).float().mean().item()


def test_write_images_makes_the_same_1797_pngs_every_time(tmp_path: Path) -> None:
    write_images(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    write_images(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == first
    assert len(first) == 1797
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list("0123456789")
    with Image.open(tmp_path / "7" / "0000.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_missing_scikit_learn_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'latentdebias\[demo\]'"):
        write_images(tmp_path / "digits")
    assert not (tmp_path / "digits").exists()


def test_the_held_out_fifth_holds_a_fifth_of_every_class() -> None:
    _, labels = load_images()
    mask = held_out_fifth(labels)
    for label in range(10):
        assert mask[labels == label].mean() == pytest.approx(0.2, abs=0.01)


def test_shipped_weights_are_small_and_fp16() -> None:
    assert CLASSIFIER_FILE.stat().st_size < 150_000
    assert sum(path.stat().st_size for path in AUTOENCODER_DIR.parent.rglob("*.safetensors")) < 1_000_000
    for path in AUTOENCODER_DIR.parent.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}


def test_classifier_is_accurate_on_digits_it_never_saw(
    digits: tuple[Tensor, Tensor], classifier: DigitsClassifier
) -> None:
    images, labels = digits
    assert accuracy(classifier, images, labels) > 0.97


def test_features_are_fp32_and_64_wide(digits: tuple[Tensor, Tensor], classifier: DigitsClassifier) -> None:
    images, _ = digits
    features = classifier.features(images[:3])
    assert (features.shape, features.dtype) == ((3, 64), torch.float32)
    assert classifier(images[:3]).shape == (3, 10)


def test_a_saved_classifier_loads_as_it_was(tmp_path: Path, classifier: DigitsClassifier) -> None:
    save_classifier(classifier, tmp_path / "classifier.safetensors")
    assert (tmp_path / "classifier.safetensors").read_bytes() == CLASSIFIER_FILE.read_bytes()
    loaded = load_classifier(tmp_path / "classifier.safetensors").state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in classifier.state_dict().items())


def test_autoencoder_maps_32x32_images_to_4x4x4_latents_of_unit_std(
    digits: tuple[Tensor, Tensor], autoencoder: AutoencoderKL
) -> None:
    images, _ = digits
    latents = autoencoder.encode(2 * images - 1).latent_dist.sample()
    assert latents.shape[1:] == (4, 4, 4)
    assert (latents * autoencoder.config["scaling_factor"]).std().item() == pytest.approx(1, abs=0.05)
    assert 200_000 < sum(parameter.numel() for parameter in autoencoder.parameters()) < 500_000


def test_every_latent_channel_is_in_use(digits: tuple[Tensor, Tensor], autoencoder: AutoencoderKL) -> None:
    images, _ = digits
    posterior = autoencoder.encode(2 * images - 1).latent_dist
    signal = posterior.mean.std(dim=(0, 2, 3))
    noise = posterior.std.mean(dim=(0, 2, 3))
    assert (signal > 2 * noise).all()


def test_reconstructions_look_like_the_originals(
    digits: tuple[Tensor, Tensor], classifier: DigitsClassifier, autoencoder: AutoencoderKL
) -> None:
    images, labels = digits
    decoded = decode(autoencoder, autoencoder.encode(2 * images - 1).latent_dist.mode())
    psnr = -10 * (decoded - images).square().mean().log10().item()
    assert psnr > 26.5
    assert accuracy(classifier, decoded, labels) >= accuracy(classifier, images, labels) - 0.005


def test_perturbed_latents_still_decode_to_the_same_digit(
    digits: tuple[Tensor, Tensor], classifier: DigitsClassifier, autoencoder: AutoencoderKL
) -> None:
    images, labels = digits
    latents = autoencoder.encode(2 * images - 1).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    decoded = decode(autoencoder, latents + 0.2 * noise / autoencoder.config["scaling_factor"])
    assert accuracy(classifier, decoded, labels) > 0.96


def test_augmentation_keeps_the_shape_the_range_and_the_digit(
    digits: tuple[Tensor, Tensor], classifier: DigitsClassifier
) -> None:
    images, labels = digits
    torch.manual_seed(0)
    moved = augment(images)
    assert moved.shape == images.shape
    assert 0 <= moved.min() < moved.max() <= 1
    assert not torch.equal(moved, images)
    assert accuracy(classifier, moved, labels) > 0.95


def test_training_the_classifier_reduces_its_loss(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    before, after = (
        F.cross_entropy(train_classifier(images, labels, steps, seed=0)(images), labels) for steps in (1, 25)
    )
    assert after < 0.7 * before


def test_training_the_autoencoder_reduces_its_loss(digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0][:64]
    pixels = 2 * images - 1
    before, after = (
        F.mse_loss(model(pixels).sample, pixels)
        for model in (train_autoencoder(images, steps, seed=0) for steps in (1, 10))
    )
    assert after < 0.7 * before

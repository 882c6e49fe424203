"""The 1,797 scans of scikit-learn's `load_digits` as 32x32 images, in memory and as a folder of PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from latentdebias.errors import UserError, pip_install

RESOLUTION = 32
NUM_CLASSES = 10


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """The digits as images (N, 32, 32) and labels (N,), both uint8, sorted by class; white ink on black.

    The scans are the test set of Alpaydin & Kaynak's "Optical Recognition of Handwritten Digits" (UCI, 1998):
    8x8 pixels with values 0 to 16, here scaled to 0 to 255 and enlarged bicubically.
    Raises `UserError` where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            f"The demo's digits come with scikit-learn, which is not installed; run: {pip_install('demo')}"
        ) from None
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    scans = (digits.images[order] * (255 / 16)).round().astype(np.uint8)
    images = np.stack([np.asarray(_upscale(scan)) for scan in scans])
    return images, digits.target[order].astype(np.uint8)


def _upscale(scan: np.ndarray) -> Image.Image:
    return Image.fromarray(scan).resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC)


def held_out_fifth(labels: np.ndarray) -> np.ndarray:
    """Boolean mask (N,) of the images held out from training of the shipped weights: every fifth of each class."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        mask[np.flatnonzero(labels == label)[::5]] = True
    return mask


def write_images(root: Path) -> None:
    """Write the digits as 32x32 RGB PNGs, one folder per class: `root/0/0000.png` and so on.

    Writing again gives the same bytes. Raises `UserError` where scikit-learn is not installed.
    """
    images, labels = load_images()
    for label in range(NUM_CLASSES):
        folder = Path(root) / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        of_class = images[labels == label]
        for index, image in enumerate(tqdm(of_class, desc=f"digit {label}", unit="image")):
            Image.fromarray(image).convert("RGB").save(folder / f"{index:04d}.png")

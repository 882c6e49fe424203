"""The demo's offline assets: scikit-learn's digits, and a classifier and an autoencoder for them."""

from pathlib import Path

from latentdebias.digits.classifier import DigitsClassifier, load_classifier
from latentdebias.digits.images import NUM_CLASSES, RESOLUTION, write_images

__all__ = ["AUTOENCODER_DIR", "NUM_CLASSES", "RESOLUTION", "DigitsClassifier", "load_classifier", "write_images"]

AUTOENCODER_DIR: Path = Path(__file__).parent / "autoencoder"
"""Folder of the shipped `diffusers.AutoencoderKL`, in diffusers' layout: 32x32 RGB images <-> 4x4x4 latents."""

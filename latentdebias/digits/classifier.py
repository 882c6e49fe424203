"""A small classifier of the digits: it scores the demo's samples, and its features serve FID and KID."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

CLASSIFIER_FILE = Path(__file__).parent / "classifier.safetensors"


class DigitsClassifier(nn.Module):
    """Three strided convolutions and two linear layers on images (B, 3, 32, 32), float in [0, 1]."""

    feature_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(48 * 4 * 4, self.feature_dim),
            nn.SiLU(),
        )
        self.head = nn.Linear(self.feature_dim, 10)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The activations (B, 64) fp32 before the last layer, of images (B, 3, 32, 32) in [0, 1]."""
        return self.body(images.float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits (B, 10) fp32 of images (B, 3, 32, 32) in [0, 1]."""
        return self.head(self.features(images))


def save_classifier(classifier: DigitsClassifier, path: Path) -> None:
    """Write the weights as fp16 safetensors."""
    weights = {name: weight.half().contiguous() for name, weight in classifier.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))


def load_classifier(path: Path = CLASSIFIER_FILE) -> DigitsClassifier:
    """The classifier in the file `path`, by default the shipped one: fp32, on the CPU, in evaluation mode, frozen."""
    classifier = DigitsClassifier()
    classifier.load_state_dict(safetensors.torch.load_file(path))
    return classifier.eval().requires_grad_(False)

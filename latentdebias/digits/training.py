"""The training of the shipped classifier and autoencoder, which `tools/make_digits_assets.py` runs."""

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from latentdebias.digits.classifier import DigitsClassifier
from latentdebias.digits.images import RESOLUTION

BATCH_SIZE = 64
KL_WEIGHT = 1e-3  # relative to the mean squared error of pixels in [-1, 1]; KL is a mean over latent dimensions


def train_classifier(images: Tensor, labels: Tensor, steps: int, seed: int) -> DigitsClassifier:
    """Train a classifier on images (N, 3, 32, 32) in [0, 1] and labels (N,) int64 by cross entropy."""
    torch.manual_seed(seed)
    classifier = DigitsClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    progress = tqdm(range(steps), desc="classifier", unit="step")
    for _ in progress:
        batch = torch.randint(len(images), (BATCH_SIZE,))
        logits = classifier(augment(images[batch]))
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
        _step(classifier, optimizer, loss)
        decay.step()
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return classifier.eval().requires_grad_(False)


def train_autoencoder(images: Tensor, steps: int, seed: int) -> AutoencoderKL:
    """Train an autoencoder on images (N, 3, 32, 32) in [0, 1] by squared error and a weak KL term.

    The `scaling_factor` in its config is 1 / std of the latents of `images` (Rombach et al. 2022, appendix G).
    """
    torch.manual_seed(seed)
    autoencoder = _new_autoencoder()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    progress = tqdm(range(steps), desc="autoencoder", unit="step")
    for _ in progress:
        batch = torch.randint(len(images), (BATCH_SIZE,))
        pixels = 2 * augment(images[batch]) - 1
        posterior = autoencoder.encode(pixels).latent_dist
        decoded = autoencoder.decode(posterior.sample()).sample
        reconstruction = F.mse_loss(decoded, pixels)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        _step(autoencoder, optimizer, reconstruction + KL_WEIGHT * kl)
        decay.step()
        progress.set_postfix(mse=f"{reconstruction.item():.4f}", kl=f"{kl.item():.2f}", refresh=False)
    autoencoder.eval().requires_grad_(False)
    autoencoder.register_to_config(scaling_factor=1 / _latent_std(autoencoder, images))
    return autoencoder


def augment(images: Tensor) -> Tensor:
    """Shift, rotate and scale each image of (B, 3, 32, 32) at random, by up to 1.5 pixels, 8 degrees and 8%."""
    angle = _uniform(images, 8 * torch.pi / 180)
    scale = 1 + _uniform(images, 0.08)
    shift_x = _uniform(images, 2 * 1.5 / RESOLUTION)
    shift_y = _uniform(images, 2 * 1.5 / RESOLUTION)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, shift_x], dim=1), torch.stack([sin, cos, shift_y], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def _uniform(images: Tensor, bound: float) -> Tensor:
    return (2 * torch.rand(len(images)) - 1) * bound


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 32, 40),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=RESOLUTION,
    )


@torch.no_grad()
def _latent_std(autoencoder: AutoencoderKL, images: Tensor) -> float:
    batches = (2 * images - 1).split(256)
    return torch.cat([autoencoder.encode(pixels).latent_dist.sample() for pixels in batches]).std().item()

"""Train the demo's classifier and autoencoder on the digits, and measure them on a held-out fifth."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL

from latentdebias.digits.classifier import CLASSIFIER_FILE, DigitsClassifier, load_classifier, save_classifier
from latentdebias.digits.images import held_out_fifth, load_images
from latentdebias.digits.training import train_autoencoder, train_classifier
from latentdebias.errors import run_tool


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=CLASSIFIER_FILE.parent, metavar="DIR", help="where to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier-steps", type=int, default=800)
    parser.add_argument("--autoencoder-steps", type=int, default=1000)
    args = parser.parse_args(words)

    images, labels = load_images()
    held_out = torch.from_numpy(held_out_fifth(labels))
    pixels = torch.from_numpy(images).float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    targets = torch.from_numpy(labels).long()

    classifier = train_classifier(pixels[~held_out], targets[~held_out], args.classifier_steps, args.seed)
    autoencoder = train_autoencoder(pixels[~held_out], args.autoencoder_steps, args.seed)

    args.out.mkdir(parents=True, exist_ok=True)
    save_classifier(classifier, args.out / "classifier.safetensors")
    autoencoder.half().save_pretrained(args.out / "autoencoder")
    print_measurements(args.out, pixels[held_out], targets[held_out])


@torch.no_grad()
def print_measurements(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Measure the written files, fp16 rounding included, on images (N, 3, 32, 32) in [0, 1]."""
    classifier = load_classifier(folder / "classifier.safetensors")
    autoencoder = AutoencoderKL.from_pretrained(folder / "autoencoder")
    latents = autoencoder.encode(2 * images - 1).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    decoded = decode(autoencoder, latents)
    perturbed = decode(autoencoder, latents + 0.2 * noise / autoencoder.config["scaling_factor"])
    psnr = -10 * (decoded - images).square().mean().log10().item()

    print(f"held-out images                                       {len(images)}")
    print(f"classifier accuracy, originals                        {accuracy(classifier, images, labels):.2%}")
    print(f"classifier accuracy, reconstructions                  {accuracy(classifier, decoded, labels):.2%}")
    print(f"  latents perturbed by 0.2 std                        {accuracy(classifier, perturbed, labels):.2%}")
    print(f"reconstruction PSNR                                   {psnr:.2f} dB")
    print(f"scaling_factor                                        {autoencoder.config['scaling_factor']:.4f}")
    print(f"classifier parameters                                 {count(classifier):,}")
    print(f"autoencoder parameters                                {count(autoencoder):,}")
    for path in sorted(folder.rglob("*.safetensors")):
        print(f"{path.relative_to(folder).as_posix():<54}{path.stat().st_size / 1000:.1f} kB")


def decode(autoencoder: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    return autoencoder.decode(latents).sample.add(1).div(2).clamp(0, 1)


def accuracy(classifier: DigitsClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (classifier(images).argmax(dim=1) == labels).float().mean().item()


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    run_tool(main)

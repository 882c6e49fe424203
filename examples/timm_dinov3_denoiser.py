"""A DINOv3-style ViT of timm as the denoiser of latents: python timm_dinov3_denoiser.py [--pretrained]

--pretrained starts from DINOv3's weights, which timm downloads.
"""

import argparse

import torch

from latentdebias import Diffusion
from latentdebias.backbones import BACKBONES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-name", default="vit_small_patch16_dinov3")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    spec = {"name": "vit", "timm_name": arguments.timm_name, "patch_size": 2, "pretrained": arguments.pretrained}
    model = BACKBONES.build(spec).build(img_size=8, in_chans=4, num_classes=10)
    diffusion = Diffusion(schedule="cosine", target="v", weighting={"name": "min_snr", "gamma": 5.0})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.99, 0.99))

    # Ten classes of latents: one pattern each, and a little noise.
    patterns = torch.randn(10, 4, 8, 8)
    for step in range(arguments.steps):
        labels = torch.randint(10, (16,))
        latents = patterns[labels] + 0.1 * torch.randn(16, 4, 8, 8)
        dropped = torch.where(torch.rand(16) < 0.1, 10, labels)
        loss = diffusion.loss(model, latents, dropped).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

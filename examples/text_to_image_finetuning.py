"""The training step of diffusers' text-to-image fine-tuning with a weighting of latentdebias's, ten lines of it.

    python text_to_image_finetuning.py                                  # tiny networks of random weights, on a CPU
    python text_to_image_finetuning.py --model stable-diffusion-v1-5/stable-diffusion-v1-5

The step takes the place of `F.mse_loss` and of the branches on `--snr_gamma` and `prediction_type` in that script.
"""

import argparse

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from latentdebias import Diffusion


def tiny_networks() -> tuple[AutoencoderKL, UNet2DConditionModel, DDPMScheduler]:
    """An autoencoder and a UNet of Stable Diffusion's kind, and its scheduler."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4, **blocks)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return vae, unet, scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Stable Diffusion by hub id or folder")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.model:
        vae = AutoencoderKL.from_pretrained(arguments.model, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(arguments.model, subfolder="unet")
        scheduler = DDPMScheduler.from_pretrained(arguments.model, subfolder="scheduler")
    else:
        vae, unet, scheduler = tiny_networks()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    side = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    images = torch.rand(4, 3, side, side) * 2 - 1
    text = torch.randn(4, 77, unet.config.cross_attention_dim)

    diffusion = Diffusion.from_diffusers(scheduler, weighting="debias")
    for step in range(arguments.steps):
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
        loss = diffusion.loss(lambda z, t: unet(z, t, encoder_hidden_states=text).sample, latents).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

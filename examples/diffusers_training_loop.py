"""A diffusers and accelerate training loop, in which only the loss is latentdebias's: python diffusers_training_loop.py

Replace `images` by a loader of your own, and the scheduler by the one that you draw with.
"""

import argparse

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from latentdebias import Diffusion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", default="runs/example_unet")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    accelerator = Accelerator()
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    images = torch.utils.data.DataLoader(torch.rand(64, 3, 16, 16).round() * 2 - 1, batch_size=16, shuffle=True)
    unet, optimizer, images = accelerator.prepare(unet, optimizer, images)

    scheduler = DDPMScheduler(beta_schedule="linear", prediction_type="epsilon")
    diffusion = Diffusion.from_diffusers(scheduler, weighting="debias")

    step = 0
    while step < arguments.steps:
        for x0 in images:
            loss = diffusion.loss(lambda z, t: unet(z, t).sample, x0).mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            accelerator.print(f"step {step}: loss {loss.item():.4f}")
            if step == arguments.steps:
                break

    DDPMPipeline(accelerator.unwrap_model(unet), scheduler).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()

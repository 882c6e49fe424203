"""A Lightning module, in which only the loss is latentdebias's: python lightning_module.py

Replace `images` by a loader of your own, and `UNet2DModel` by any network that is called as model(z, t).
"""

import argparse

import lightning
import torch
from diffusers import UNet2DModel

from latentdebias import Diffusion


class Denoiser(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        self.diffusion = Diffusion(schedule="cosine", target="v", weighting={"name": "min_snr", "gamma": 5})

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = self.diffusion.loss(lambda z, t: self.unet(z, t).sample, batch[0]).mean()
        print(f"loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.utils.data.TensorDataset(torch.rand(64, 3, 16, 16).round() * 2 - 1)
    loader = torch.utils.data.DataLoader(images, batch_size=16, shuffle=True)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_steps=arguments.steps, max_epochs=-1, accelerator="auto", **quiet).fit(Denoiser(), loader)


if __name__ == "__main__":
    main()

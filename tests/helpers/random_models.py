"""What tests of the export share: a small DiT, latents with a scale for each channel, random weights."""

import torch

from latentdebias.batches.normalization import LatentNormalization

CHANNELWISE = LatentNormalization((0.3, -0.2, 0.1, 0.5), (1.5, 0.7, 1.0, 2.0))
SMALL_DIT = {"name": "dit", "width": 32, "depth": 2, "heads": 2}


def randomised(network, std=0.2):
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
    return network.eval()

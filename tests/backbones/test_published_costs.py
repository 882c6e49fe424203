"""Parameters and multiply-adds of every published network, against what its paper prints.

What DiT (table 4), U-ViT and, for ADM, DiT (section 5.1) print as Gflops are multiply-adds: half of what torch counts.
"""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

# Name, side, input channels, classes, output channels, and the millions of parameters in print.
PARAMETERS = [
    ("dit_s_patch2", 32, 4, 1000, 8, 33.0, 0.05),
    ("dit_b_patch2", 32, 4, 1000, 8, 130.5, 0.05),
    ("dit_l_patch2", 32, 4, 1000, 8, 458.1, 0.05),
    ("dit_xl_patch2", 32, 4, 1000, 8, 675.1, 0.05),
    # Min-SNR's table 6 leaves out the class table, which would make the others 89, 270 and 452.
    ("min_snr_vit_s_patch4", 64, 3, 0, 3, 43, 0.5),
    ("min_snr_vit_b_patch2", 32, 4, 0, 4, 88, 0.5),
    ("min_snr_vit_l_patch4", 64, 3, 0, 3, 269, 0.5),
    ("min_snr_vit_xl_patch2", 32, 4, 0, 4, 451, 0.5),
    ("uvit_s_patch4", 64, 3, 0, 3, 44, 0.5),
    ("uvit_m_patch4", 64, 3, 1000, 3, 131, 0.5),
    ("uvit_l_patch2", 32, 4, 1000, 4, 287, 0.5),
    ("uvit_h_patch2", 32, 4, 1000, 4, 501, 0.5),
    ("unet_adm_64", 64, 3, 1000, 6, 296, 0.5),
    ("unet_adm_256", 256, 3, 1000, 6, 554, 0.5),
    ("ldm_unet", 32, 4, 1000, 4, 395, 0.5),
    # Min-SNR's ablation says 1.5 times ViT-B's, 132; the smallest network of the Debias paper is not in print.
    ("unet_min_snr", 32, 4, 1000, 4, 132, 4),
    ("unet_adm_small", 256, 3, 0, 6, 93.6, 0.05),
]

# The same, and the billions of multiply-adds in print.
MULTIPLY_ADDS = [
    ("dit_s_patch2", 32, 4, 1000, 8, 6.06),
    ("dit_b_patch2", 32, 4, 1000, 8, 23.01),
    ("dit_l_patch2", 32, 4, 1000, 8, 80.71),
    ("dit_xl_patch2", 32, 4, 1000, 8, 118.64),
    ("dit_s_patch4", 32, 4, 1000, 8, 1.41),
    ("dit_b_patch4", 32, 4, 1000, 8, 5.56),
    ("dit_l_patch4", 32, 4, 1000, 8, 19.70),
    ("dit_xl_patch4", 32, 4, 1000, 8, 29.05),
    ("dit_s_patch8", 32, 4, 1000, 8, 0.36),
    ("dit_b_patch8", 32, 4, 1000, 8, 1.42),
    ("dit_l_patch8", 32, 4, 1000, 8, 5.01),
    ("dit_xl_patch8", 32, 4, 1000, 8, 7.39),
    ("uvit_h_patch2", 32, 4, 1000, 4, 133.25),
    ("unet_adm_256", 256, 3, 1000, 6, 1120),
]


def build(name, img_size, in_chans, num_classes, out_chans):
    return timm.create_model(name, img_size=img_size, in_chans=in_chans, num_classes=num_classes, out_chans=out_chans)


@pytest.mark.parametrize(("name", "side", "in_chans", "num_classes", "out_chans", "published", "off"), PARAMETERS)
def test_parameters(name, side, in_chans, num_classes, out_chans, published, off):
    with torch.device("meta"):
        model = build(name, side, in_chans, num_classes, out_chans)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(published, abs=off)


@pytest.mark.parametrize(("name", "side", "in_chans", "num_classes", "out_chans", "published"), MULTIPLY_ADDS)
def test_multiply_adds(name, side, in_chans, num_classes, out_chans, published):
    """Within 0.1%, or the last digit in print; what the table leaves out are biases, norms and activations."""
    with torch.device("meta"):
        model = build(name, side, in_chans, num_classes, out_chans)
        z, t, y = torch.empty(1, in_chans, side, side), torch.empty(1), torch.empty(1, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(z, t, y)
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=1e-3, abs=5e-3)

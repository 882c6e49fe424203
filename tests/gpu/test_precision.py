"""What each precision does to the numbers: fp32 is exact to its last bits, TF32 and bf16 to fewer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latentdebias import Diffusion
from latentdebias.precision import computing_in
from latentdebias.sampling import Guidance, Guided, Network

# Larger than the rounding of fp32 in a sum of some hundred products, smaller than that of TF32 or bf16.
EXACT = 1e-4


def has_tf32():
    return torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


def error_of_product(device):
    torch.manual_seed(0)
    left, right = torch.randn(2, 256, 256)
    exact = left.double() @ right.double()
    return float(((left.to(device) @ right.to(device)).cpu() - exact).abs().max() / exact.abs().max())


def error_of_convolution(device):
    torch.manual_seed(0)
    images, weight = torch.randn(2, 32, 16, 16), torch.randn(32, 32, 3, 3)
    exact = F.conv2d(images.double(), weight.double())
    return float((F.conv2d(images.to(device), weight.to(device)).cpu() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("error", [error_of_product, error_of_convolution])
@pytest.mark.parametrize("left_at", ["fp32", "tf32"])
def test_fp32_is_computed_in_full_whatever_was_set_before(device, error, left_at):
    with computing_in(left_at), computing_in("fp32"):
        assert error(device) < EXACT


def test_tf32_is_used_where_it_is_asked_for(device):
    """By matrix products; cuDNN is free to take an algorithm without it."""
    with computing_in("tf32"):
        error = error_of_product(device)
        assert error_of_convolution(device) < 1e-2
    assert error < 1e-2
    assert (error > EXACT) == (device.type == "cuda" and has_tf32())


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_network_answers_in_the_precision_of_its_drawing(device, precision):
    torch.manual_seed(0)
    model, z = nn.Conv2d(4, 4, 3, padding=1), torch.randn(8, 4, 16, 16)

    def answer(place, precision):
        network = Network(Answers(model).to(place), Diffusion("linear", "v"))
        with torch.no_grad():
            return Guided(network, Guidance(1.0), 0, precision=precision)(
                z.to(place), torch.tensor(500), torch.zeros(8, dtype=torch.long, device=place)
            ).cpu()

    exact = answer(torch.device("cpu"), "fp32")
    error = float((answer(device, precision) - exact).abs().max() / exact.abs().max())
    low, high = {"fp32": (0, EXACT), "tf32": (0, 1e-2), "bf16": (EXACT, 5e-2)}[precision]
    assert low <= error < high


class Answers(nn.Module):
    """A convolution, called as a backbone is."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z, t, y=None):
        return self.layer(z)

"""Each part computes in the precision that is asked of it, whatever the process was set to before."""

from contextlib import suppress
from typing import get_args

import pytest
import torch
from draw_options import draw_options
from torch import nn

from latentdebias import Diffusion
from latentdebias.autoencoders import PixelAutoencoder
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.evaluation.extractors.extractor import Extractor
from latentdebias.evaluation.features import Features
from latentdebias.precision import Precision, computing_in, set_precision
from latentdebias.sampling import LatentModel, Network

PRECISIONS = get_args(Precision)


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True, params=[False, True], ids=["before: off", "before: on"])
def set_otherwise(request):
    """Flags as another part of the process, or torch itself, may have left them; each test restores its own."""
    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = request.param
    yield (request.param, request.param)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matrix_products_and_convolutions_agree(precision):
    set_precision(precision)
    assert flags() == (precision == "tf32", precision == "tf32")


def test_a_cpu_computes_as_before():
    z = torch.randn(3, 16, 16)
    expected = z @ z
    for precision in PRECISIONS:
        with computing_in(precision):
            assert torch.equal(z @ z, expected)
            assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_what_held_before_holds_after_an_error(set_otherwise):
    with suppress(ZeroDivisionError), computing_in("fp32"):
        raise ZeroDivisionError
    assert flags() == set_otherwise


class Seen(nn.Module):
    """Remembers the flags and the autocast of its calls."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, z, t=None, y=None):
        self.calls.append((*flags(), torch.is_autocast_enabled("cpu")))
        return self.layer(z)


class SeenDecoder(PixelAutoencoder):
    def __init__(self):
        super().__init__()
        self.calls = []

    def decode(self, latents):
        self.calls.append(flags())
        return super().decode(latents)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_draws_in_its_precision_and_the_decoder_in_fp32(precision, set_otherwise):
    network, decoder = Seen(), SeenDecoder()
    model = LatentModel(Network(network, Diffusion("linear", "v")), (3, 8, 8), 0)
    sampler = ImageSampler(model, LatentNormalization((0.0,) * 3, (1.0,) * 3), decoder)
    list(sampler.draw(torch.zeros(2, dtype=torch.long), draw_options(steps=2, guidance=1.0, precision=precision)))
    assert set(network.calls) == {(precision == "tf32", precision == "tf32", precision == "bf16")}
    assert decoder.calls == [(False, False)]
    assert flags() == set_otherwise


class SeenExtractor(Extractor):
    def extract(self, images):
        features = self.network(images.float()).flatten(1)
        return Features(features, features)


def test_features_are_extracted_in_fp32(set_otherwise):
    network = Seen()
    SeenExtractor(network, 12, "seen")(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    assert network.calls == [(False, False, False)]
    assert flags() == set_otherwise

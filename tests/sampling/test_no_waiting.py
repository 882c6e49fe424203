"""Tensors on the meta device have no values, so a step that read one back, as it would from a GPU, raises here."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch
from latentdebias.sampling.generate import generate
from latentdebias.sampling.guidance_options import GuidanceOptions
from torch import nn

from latentdebias import Diffusion
from latentdebias.sampling import SAMPLERS, Network
from latentdebias.sampling.guidance import Guided

SHAPE, META = (4, 8, 8), torch.device("meta")
VELOCITY = {"linear": "v", "flow": "flow"}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.classes = nn.Embedding(11, 4)

    def forward(self, z, t, y=None):
        return self.layer(z) + self.classes(y)[:, :, None, None] + t[:, None, None, None]


class ReadsBack(Convolution):
    def forward(self, z, t, y=None):
        return super().forward(z, t, y) * float(z.max())


def draw(network, diffusion, sampler, options):
    guided = Guided(Network(network.to(META), diffusion), options, 10)
    labels = torch.zeros(3, dtype=torch.long, device=META)
    return list(generate(guided, diffusion, SAMPLERS.build(sampler), labels, SHAPE, seed=0, steps=4, batch_size=2))


@pytest.mark.parametrize("options", [GuidanceOptions(), GuidanceOptions(guidance_interval=(0.2, 0.8))], ids=["", "cut"])
@pytest.mark.parametrize(
    ("sampler", "schedule"), sorted(set(product(SAMPLERS.names(), VELOCITY)) - {("euler", "linear")})
)
def test_no_step_waits_for_a_value(sampler, schedule, options):
    latents = draw(Convolution(), Diffusion(schedule, VELOCITY[schedule]), sampler, options)
    assert [z.shape for z in latents] == [(2, *SHAPE), (1, *SHAPE)]
    assert {z.device for z in latents} == {META}


def test_a_step_that_waits_is_found():
    with pytest.raises(RuntimeError, match="meta"):
        draw(ReadsBack(), Diffusion("linear", "v"), "ddim", GuidanceOptions())

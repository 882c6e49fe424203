"""Tensors on the meta device have no values: a step that read one back, or mixed devices, would raise here."""

from contextlib import nullcontext

import pytest
import torch
from draw_options import draw_options
from torch import nn

from latentdebias import Diffusion
from latentdebias.sampling import SAMPLERS, LatentModel, Network

SHAPE, META = (4, 8, 8), torch.device("meta")
EVERYTHING = {"scale": 2.0, "interval": (0.2, 0.8), "schedule": "cosine", "channels": 3, "rescale": 0.5}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


class Convolution(nn.Module):
    def __init__(self, outputs=4):
        super().__init__()
        self.layer = nn.Conv2d(4, outputs, 3, padding=1)
        self.classes = nn.Embedding(11, outputs)

    def forward(self, z, t, y=None):
        return self.layer(z) + self.classes(y)[:, :, None, None] + t[:, None, None, None]


class ReadsBack(Convolution):
    def forward(self, z, t, y=None):
        return super().forward(z, t, y) * float(z.max())


def draw(network, diffusion, weaker=False, **options):
    network = Network(network.to(META), diffusion)
    model = LatentModel(network, SHAPE, 10, weaker=network if weaker else None)
    labels = torch.zeros(3, dtype=torch.long, device=META)
    options = draw_options(steps=4, batch_size=2, **options)
    return list(model.sampler(options).draw(labels, options))


@pytest.mark.parametrize(
    "sampler", [*SAMPLERS.names(), {"name": "ddim", "eta": 0.5}, {"name": "heun", "s_churn": 40.0}], ids=str
)
@pytest.mark.parametrize(
    ("schedule", "target", "variance", "guidance", "weaker"),
    [
        ("linear", "v", "fixed", 1.5, False),
        ("linear", "eps", "learned_range", EVERYTHING, True),
        ("flow", "flow", "fixed", EVERYTHING, False),
        ("edm", "edm", "fixed", 1.5, True),
    ],
)
def test_no_step_waits_for_a_value(sampler, schedule, target, variance, guidance, weaker):
    if sampler == "euler" and schedule != "flow":
        return
    d = Diffusion(schedule, target, variance=variance)
    latents = draw(Convolution(4 * d.variance.outputs), d, weaker, sampler=sampler, guidance=guidance)
    assert [z.shape for z in latents] == [(2, *SHAPE), (1, *SHAPE)]
    assert {(z.device, z.dtype) for z in latents} == {(META, torch.float32)}


def test_a_step_that_waits_is_found():
    with pytest.raises(RuntimeError, match="meta"):
        draw(ReadsBack(), Diffusion("linear", "v"))

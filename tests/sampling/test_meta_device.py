"""On the meta device a tensor has no values, so a sampler that waits for one, or that mixes devices, fails here."""

import contextlib

import pytest
import torch

from latentdebias import Diffusion
from latentdebias.backbones import BACKBONES
from latentdebias.sampling import SAMPLERS, GuidanceOptions, Guided, Network, sample

STOCHASTIC = [{"name": "ddim", "eta": 0.5}, {"name": "heun", "s_churn": 40.0}]
PLAIN = GuidanceOptions(guidance=2.0)
EVERYTHING = GuidanceOptions(
    guidance=2.0,
    guidance_channels=3,
    guidance_rescale=0.5,
    guidance_interval=(0.1, 0.9),
    guidance_schedule="cosine",
)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp", "dpmpp_3m", "unipc", *STOCHASTIC], ids=str)
@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize(
    ("schedule", "variance"), [("linear", "fixed"), ("linear", "learned_range"), ("flow", "fixed"), ("edm", "fixed")]
)
def test_no_step_waits_for_the_device(schedule, variance, options, sampler, monkeypatch):
    # Autocast does not know the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    d = Diffusion(schedule, "edm", variance=variance)
    with torch.device("meta"):
        spec = BACKBONES.build({"name": "dit", "width": 8, "depth": 1, "heads": 2})
        network = Network(spec.build(4, 4, 10, 4 * d.variance.outputs), d)
    guided = Guided(network, options, 10, weaker=network if options is EVERYTHING else None)
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    generators = [torch.Generator() for _ in range(2)]
    out = sample(guided, d, SAMPLERS.build(sampler), labels, (4, 4, 4), generators, 5)
    assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 4, 4, 4), torch.float32)

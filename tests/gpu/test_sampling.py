"""Every sampler on a GPU: the images of the CPU, and no step that waits for the device."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from draw_options import draw_options
from torch import nn

from latentdebias import Diffusion
from latentdebias.backbones import BACKBONES
from latentdebias.sampling import SAMPLERS, LatentModel, Network

SHAPE = (4, 8, 8)
EVERY_SAMPLER = [
    *SAMPLERS.names(),
    {"name": "ddim", "eta": 0.5},
    {"name": "heun", "s_churn": 40.0},
    {"name": "unipc", "order": 3},
]
SCHEDULES = {"linear": "v", "flow": "flow"}
CASES = [case for case in itertools.product(EVERY_SAMPLER, SCHEDULES) if case != ("euler", "linear")]
every_sampler = pytest.mark.parametrize(("sampler", "schedule"), CASES, ids=str)


def model_on(device, schedule):
    torch.manual_seed(0)
    spec = {"name": "dit", "width": 32, "depth": 2, "heads": 2, "patch_size": 2}
    backbone = BACKBONES.build(spec).build(8, 4, 10)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.05)
    network = Network(backbone.to(device).eval(), Diffusion(schedule, SCHEDULES[schedule]))
    return LatentModel(network, SHAPE, 10)


def options(sampler, precision="fp32"):
    guidance = {"scale": 2.0, "interval": (0.1, 0.9), "schedule": "cosine", "rescale": 0.5}
    return draw_options(sampler=sampler, steps=6, guidance=guidance, batch_size=3, precision=precision)


def draw(device, sampler, schedule, precision="fp32"):
    asked = options(sampler, precision)
    labels = torch.arange(5, device=device)
    return torch.cat(list(model_on(device, schedule).sampler(asked).draw(labels, asked))).cpu()


@every_sampler
def test_latents_are_those_of_the_cpu_from_the_same_noise(device, sampler, schedule):
    found, expected = draw(device, sampler, schedule), draw(torch.device("cpu"), sampler, schedule)
    # Sums in another order; a wrong step is off by tenths.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 * float(expected.abs().max()))


@every_sampler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_gpu(device, no_waiting, sampler, schedule, precision):
    asked, labels = options(sampler, precision), torch.arange(5, device=device)
    latents = model_on(device, schedule).sampler(asked)
    # The first batches choose kernels, and take memory from the driver, which waits.
    list(latents.draw(labels, asked))
    with no_waiting():
        drawn = list(latents.draw(labels, asked))
    assert torch.cat(drawn).isfinite().all()


def test_a_step_that_waits_is_found(device, no_waiting):
    value = torch.ones(1, device=device)
    waits = pytest.raises(RuntimeError, match="synchroniz") if device.type == "cuda" else nullcontext()
    with no_waiting(), waits:
        value.item()

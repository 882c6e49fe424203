"""From a training run to images, for the parts that change what the network is asked."""

import pytest
import torch
from draw_options import draw_options

import latentdebias
from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run

LEARNED = ["diffusion.variance=learned_range"]
EDM = [
    "diffusion.schedule=edm",
    "diffusion.target={name: edm, sigma_data: 1.0}",
    "diffusion.weighting={name: edm, sigma_data: 1.0}",
    "diffusion.timesteps=log_normal",
]


@pytest.mark.parametrize(("changes", "sampler"), [(LEARNED, "ddpm"), (EDM, "heun")], ids=["learned_range", "edm"])
def test_a_run_ends_in_a_model_that_draws(small_run, process_group, tmp_path, changes, sampler):
    options = ["training.sample_every=4", "sampling.per_class=1", "sampling.steps=2", f"sampling.sampler={sampler}"]
    config = load_config("digits_debias.yaml", [*small_run, *changes, *options])
    Run(prepare(config)).train()
    assert (tmp_path / "run" / "samples" / "step-00000004.png").is_file()
    model = latentdebias.load_model(tmp_path / "run" / "model")
    assert model.diffusion.spec() == latentdebias.Diffusion(**config.plain()["diffusion"]).spec()
    images = torch.cat(list(model.image_sampler().draw(torch.tensor([1, 2]), draw_options(sampler=sampler, steps=3))))
    assert images.shape == (2, 3, 32, 32)

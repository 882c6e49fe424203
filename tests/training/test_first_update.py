"""The first update at every ZeRO stage, against AdamW by hand in fp64."""

import pytest
import torch
from plain_training import EPS, adamw, first_adamw_update, gradients_of_the_first_batch


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_first_update_is_adamws_to_1e_6(make_run, zero_stage):
    run = make_run(
        adamw(EPS),
        "model={name: min_snr_vit, width: 32, depth: 2, heads: 2, patch_size: 1}",
        "training.steps=1",
        "training.grad_clip=0",
        f"deepspeed.zero_optimization.stage={zero_stage}",
    )
    before = run.zero_state.gathered_weights()
    gradients = gradients_of_the_first_batch(run, before)
    run.train()
    after = run.zero_state.gathered_weights()
    for name, gradient in gradients.items():
        expected = first_adamw_update(before[name], gradient)
        torch.testing.assert_close(after[name].double(), expected, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")

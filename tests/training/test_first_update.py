"""The first update at every ZeRO stage, against AdamW by hand in fp64."""

import pytest
import torch
from torch.func import functional_call

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1


def gradients_of_the_first_batch(run, weights):
    """By plain torch: the same weights, batch and loss, without DeepSpeed."""
    (batch,) = run.batches.loader(0, 1, torch.device("cpu"))
    backbone = run.config.model.build(*weights_shape(run))
    parameters = {name: weights[name].clone().requires_grad_() for name, _ in backbone.named_parameters()}

    def model(z, t, y):
        return functional_call(backbone, parameters, (z, t, y))

    t = run.diffusion.sample_timesteps(batch.u, batch.row, run.config.training.batch_size)
    loss = run.diffusion.loss(model, batch.latents, batch.labels, t=t, eps=batch.eps).mean()
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    return dict(zip(trained, torch.autograd.grad(loss, [parameters[name] for name in trained]), strict=True))


def weights_shape(run):
    channels, side, _ = run.prepared.network.latent_shape
    return side, channels, run.prepared.network.num_classes


def first_adamw_update(weight, gradient):
    """Loshchilov & Hutter 2019, algorithm 2, at t = 1, in fp64."""
    w, g = weight.double(), gradient.double()
    m_hat = (1 - BETAS[0]) * g / (1 - BETAS[0])
    v_hat = (1 - BETAS[1]) * g**2 / (1 - BETAS[1])
    return w - LR * DECAY * w - LR * m_hat / (v_hat.sqrt() + EPS)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_first_update_is_adamws_to_1e_6(make_run, zero_stage):
    run = make_run(
        f"optimizer={{lr: {LR}, betas: {list(BETAS)}, eps: {EPS}, weight_decay: {DECAY}}}",
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

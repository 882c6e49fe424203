"""A training step by plain torch on the CPU, without DeepSpeed."""

import torch
from torch.func import functional_call

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1


def adamw(eps):
    """The optimizer of a run whose first update is `first_adamw_update`, as an override."""
    return f"optimizer={{lr: {LR}, betas: {list(BETAS)}, eps: {eps}, weight_decay: {DECAY}}}"


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


def first_adamw_update(weight, gradient, eps=EPS):
    """Loshchilov & Hutter 2019, algorithm 2, at t = 1, in fp64."""
    w, g = weight.double(), gradient.double()
    m_hat = (1 - BETAS[0]) * g / (1 - BETAS[0])
    v_hat = (1 - BETAS[1]) * g**2 / (1 - BETAS[1])
    return w - LR * DECAY * w - LR * m_hat / (v_hat.sqrt() + eps)

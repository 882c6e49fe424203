"""The loss curve of the trainer beside that of a plain loop over the same batches, weights and objective."""

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout

import torch
from torch import nn

from latentdebias.commands.bench.loops import Lever, Workload
from latentdebias.precision import set_precision
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.monitor.log_writers import LOG
from latentdebias.training.trainer import TrainState

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 2e-2}
"""How far a loss of the fast path may be from the plain path's, as a share of it, by precision."""
CURVE = ("optimizer.lr=1.0e-3", "training.log_every=1")


def curves(workload: Workload, lever: Lever, steps: int) -> tuple[list[float], list[float]]:
    """The losses of each step: of the trainer changed by `lever`, and of the plain loop from the same weights."""
    with lever.around(), redirect_stdout(sys.stderr):
        run = Run(prepare(workload.config("curve", (*CURVE, *lever.changes))))
        backbone = run.prepared.network.build().to(workload.device)
        backbone.load_state_dict(run.zero_state.gathered_weights())
        with run.training(TrainState(), run.config.training.steps) as train:
            train(steps)
    log = (run.run_dir / LOG).read_text().splitlines()
    return [json.loads(line)["loss"] for line in log], list(_plain_losses(run, backbone, steps))


def _plain_losses(run: Run, backbone: nn.Module, steps: int) -> Iterator[float]:
    """The losses of a loop in plain torch: eager, AdamW as torch builds it, no DeepSpeed."""
    options, device = run.config.training, run.engine.device
    set_precision(options.precision)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, 1e-3, weight_decay=0.0)
    for batch in run.batches.of(range(steps)):
        batch = batch.to(device)
        t = run.diffusion.sample_timesteps(batch.u, batch.row, options.batch_size)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            losses = run.diffusion.loss(backbone, batch.latents, batch.labels, t=t, eps=batch.eps)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(trained, options.grad_clip)
        adamw.step()
        adamw.zero_grad()
        yield losses.mean().item()


def farthest_loss(workload: Workload, lever: Lever, steps: int) -> float:
    """The largest distance of two losses of the same step in `curves`, as a share of the plain one."""
    fast, plain = curves(workload, lever, steps)
    return max(abs(a - b) / abs(b) for a, b in zip(fast, plain, strict=True))

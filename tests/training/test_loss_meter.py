"""Losses by bin of t, against sums that numpy makes."""

import numpy as np
import pytest
import torch

from latentdebias.diffusion.process import LossTerms
from latentdebias.training.monitor.loss_meter import LossMeter


@pytest.mark.usefixtures("process_group")
def test_losses_are_means_by_tenth_of_the_schedule():
    g = torch.Generator().manual_seed(0)
    losses, x0_errors, bound, unit_t = torch.rand(4, 5, 40, generator=g)
    losses[2, 3] = float("nan")
    x0_errors[1, 1] = float("inf")
    unit_t[:, :30] *= 0.1  # most samples, and all of some steps, in the first bin
    meter = LossMeter(torch.device("cpu"))
    for step in range(5):
        meter.next_step()
        meter.add(LossTerms(losses[step], bound[step], torch.zeros(40), x0_errors[step]), unit_t[step])
    report = meter.report()
    assert report.loss == pytest.approx((losses + bound)[4].double().mean().item())
    where = (unit_t * 10).long().flatten().numpy()
    for number in range(10):
        total, x0 = ((losses + bound).flatten().numpy()[where == number], x0_errors.flatten().numpy()[where == number])
        total, x0 = total[np.isfinite(total)].astype(float), x0[np.isfinite(x0)].astype(float)
        assert report.loss_by_t[number] == pytest.approx(total.mean())
        assert report.x0_loss_by_t[number] == pytest.approx(x0.mean())
        if len(x0) > 1:
            assert report.x0_loss_error_by_t[number] == pytest.approx(x0.std(ddof=1) / len(x0) ** 0.5, rel=1e-6)
    assert meter.report().loss_by_t == [None] * 10

"""The change of the loss after training on one bin, where the network's only weight is a bias in eps."""

import pytest
import torch
from gaussian import S
from gaussian_model import Exact, gaussian_latents, inputs_of

from latentdebias.analysis.figures.conflict import Conflict
from latentdebias.diffusion import Diffusion
from latentdebias.diffusion.pareto.bins import timesteps_in
from latentdebias.errors import UserError

BIAS, LR, ITERATIONS = 1.0, 0.01, 5


@pytest.fixture(scope="module")
def found():
    diffusion = Diffusion("linear", "eps")
    inputs = inputs_of({"biased": Exact(diffusion, BIAS)}, gaussian_latents(256))
    return Conflict(bins=4, iterations=ITERATIONS, lr=LR, blocks=4).find(inputs)


def test_the_loss_changes_by_what_the_bias_does(found):
    """AdamW's first steps are as long as its learning rate; the error of x0 is the posterior's plus bias^2 / SNR."""
    assert found.table.columns == ("trained_bin", "bin", "change")
    assert len(found.table.rows) == 16
    diffusion, left = Diffusion("linear", "eps"), BIAS - ITERATIONS * LR
    for _, number, change in found.table.rows:
        level = diffusion.schedule.level(timesteps_in(diffusion, number, 4, 256), torch.float64)
        posterior = (S**2 * level.sigma**2 / (level.alpha**2 * S**2 + level.sigma**2)).mean()
        ratio = (1 / level.snr).mean()
        expected = (posterior + left**2 * ratio) / (posterior + BIAS**2 * ratio) - 1
        assert change == pytest.approx(float(expected), rel=0.05)


def test_gradients_of_one_weight_are_parallel(found):
    assert found.others["cosines"].columns == ("bin_a", "bin_b", "cosine")
    assert {round(row[2], 9) for row in found.others["cosines"].rows} == {1.0}


def test_every_number_has_its_interval(found):
    for table, interval in ((found.table, "conflict-intervals"), (found.others["cosines"], "cosines-intervals")):
        for (*pair, value), (*same, low, high) in zip(table.rows, found.others[interval].rows, strict=True):
            assert pair == same
            assert low <= value <= high


def test_the_model_is_left_as_it_was():
    diffusion = Diffusion("linear", "eps")
    model = Exact(diffusion, BIAS)
    Conflict(bins=2, iterations=2, lr=0.1, blocks=2).find(inputs_of({"biased": model}, gaussian_latents(16)))
    assert model.bias.item() == BIAS
    with pytest.raises(UserError, match="too few for 8 blocks"):
        Conflict().find(inputs_of({"biased": model}, gaussian_latents(15)))

"""Estimates along sampling, and principal components of tokens."""

import pytest
import torch

from latentdebias.analysis.figures.trajectory import TrajectoryFigure, principal_components, tokens_of
from latentdebias.analysis.inputs import Inputs
from latentdebias.drawing.image_sampler import labels_in_turn
from latentdebias.errors import UserError


def test_components_are_the_axes_that_the_tokens_were_spread_along():
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))[0][:4]
    scores = torch.linalg.qr(torch.randn(400, 5, generator=g, dtype=torch.float64) - 0.0)[0][:, :4]
    scores = torch.linalg.qr(scores - scores.mean(0))[0] * torch.tensor([4.0, 3.0, 2.0, 1.0])
    components, share = principal_components((scores @ axes + 7.0).reshape(4, 10, 10, 8))
    assert components.shape == (4, 10, 10, 3)
    torch.testing.assert_close(share, torch.tensor([16.0, 9.0, 4.0]).double() / 30)
    torch.testing.assert_close(components.flatten(0, 2).abs(), scores[:, :3].abs())


def test_tokens_in_front_of_the_patches_are_left_out():
    output = torch.arange(2 * 18 * 5.0).reshape(2, 18, 5)
    assert torch.equal(tokens_of(output), output[:, 2:].reshape(2, 4, 4, 5))
    assert tokens_of(torch.zeros(2, 7, 4, 4)).shape == (2, 4, 4, 7)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_last_estimate_is_the_sample_and_the_tokens_are_those_of_its_call(random_model, tmp_path, guidance):
    loaded = random_model()
    inputs = Inputs((tmp_path / "model",))
    figure = TrajectoryFigure(steps=6, columns=3, images=2, guidance=guidance, block=1)
    options = inputs.draw_options(figure.sampler, 6, guidance)
    seen = figure._of(inputs.models[0], options)
    [sample] = loaded.latent_model.sampler(options).draw(labels_in_turn(list(range(10)), 2), options)
    torch.testing.assert_close(seen.x0.x0[-1], sample)
    assert [tuple(tokens.shape) for tokens in seen.tokens] == [(2, 4, 32)] * 3
    assert not loaded.backbone.blocks[1]._forward_hooks
    found = figure.find(inputs)
    assert {row[0] for row in found.table.rows} == {"constant"}
    assert [row[3] for row in found.table.rows][-2:] == [0.0, 0.0]


def test_a_block_that_is_not_there_is_refused(random_model, tmp_path):
    random_model()
    with pytest.raises(UserError, match="has 2 blocks"):
        TrajectoryFigure(block=2, steps=2).find(Inputs((tmp_path / "model",)))

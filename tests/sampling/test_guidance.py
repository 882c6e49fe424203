import pytest
import torch
from torch import nn

from latentdebias.sampling import Guided


class LabelIsTheAnswer(nn.Module):
    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, z, t, y=None):
        self.batches.append(len(z))
        return (y if y is not None else torch.full((len(z),), -1)).float().view(-1, 1, 1, 1).expand_as(z)


Z, TIME, LABELS = torch.zeros(2, 4, 3, 3), torch.zeros(2), torch.tensor([3, 5])


def test_guidance_extrapolates_from_the_null_class_on_all_channels_in_one_call():
    model = LabelIsTheAnswer()
    out = Guided(model, guidance=1.5, null_class=10)(Z, TIME, LABELS)
    assert model.batches == [4]
    expected = 10 + 1.5 * (LABELS - 10)
    torch.testing.assert_close(out, expected.view(-1, 1, 1, 1).expand(2, 4, 3, 3))


def test_guidance_1_runs_the_conditional_half_only():
    model = LabelIsTheAnswer()
    out = Guided(model, guidance=1.0, null_class=10)(Z, TIME, LABELS)
    assert model.batches == [2]
    assert out[:, 0, 0, 0].tolist() == [3, 5]


def test_an_unconditional_model_gets_no_labels():
    assert (Guided(LabelIsTheAnswer(), guidance=1.0, null_class=0)(Z, TIME, LABELS) == -1).all()


class Linear(nn.Module):
    """Remembers the precision in which its product came out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.dtypes = []

    def forward(self, z, t, y=None):
        product = self.layer(z)
        self.dtypes.append(product.dtype)
        return product


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_runs_in_its_precision_and_answers_in_fp32(guidance, precision, inside):
    model = Linear()
    out = Guided(model, guidance, null_class=10, precision=precision)(Z, TIME, LABELS)
    assert model.dtypes == [inside]
    assert out.dtype == torch.float32

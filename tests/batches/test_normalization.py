import torch

from latentdebias.batches.normalization import LatentNormalization


def test_the_constants_are_put_on_a_device_once(monkeypatch):
    """Each copy to a GPU would wait for all that the GPU still has to do."""
    made, tensor = [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *values, **options: made.append(values) or tensor(*values, **options))
    normalization = LatentNormalization((0.25, 0.75), (1.5, 2.5))
    z = torch.randn(3, 2, 4, 4)
    for _ in range(3):
        torch.testing.assert_close(normalization.normalize(normalization.denormalize(z)), z)
    assert len(made) == 2

"""A GPU computes at all, and the fixture of this folder hands out both kinds of device."""

import torch


def test_a_sum_on_the_device(device: torch.device) -> None:
    assert torch.arange(5, device=device).sum().item() == 10

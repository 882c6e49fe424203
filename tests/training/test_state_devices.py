"""A resumed run has each optimizer's state on the devices where it was; without a GPU, on pretended CUDA tensors."""

from types import SimpleNamespace

import pytest
import torch
from state_devices import SPECS, placed, state_of, update
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from latentdebias.training.checkpoints.run_state import SavedState


class ReadsHalves(TorchDispatchMode):
    """Pretended tensors have no values: an optimizer that reads one, as with `.item()`, gets 0.5."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.5
        return func(*args, **(kwargs or {}))


class Piece:
    """A tensor as safetensors' `get_slice` gives it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def get_shape(self):
        return list(self.tensor.shape)

    def __getitem__(self, cut):
        return self.tensor[cut]


def without_a_file(share):
    """What a checkpoint of one rank holds, from its share."""
    tensors, saved = share.tensors, SavedState([])
    file = SimpleNamespace(
        metadata=share.notes,
        keys=tensors.keys,
        get_tensor=tensors.__getitem__,
        get_slice=lambda key: Piece(tensors[key]),
    )
    saved._index(file)
    return saved


@pytest.mark.parametrize("name", SPECS)
def test_state_is_restored_to_the_devices_where_it_was(name):
    """In its dtype, too: the momentum of adafactorbv is bf16."""
    with FakeTensorMode(), ReadsHalves():
        saved, optimizer = state_of(SPECS[name], "cuda")
        update(optimizer)
        resumed, fresh = state_of(SPECS[name], "cuda")
        share = saved.share()
        share.tensors = {key: tensor.cpu() for key, tensor in share.tensors.items()}
        resumed.restore(without_a_file(share))
    assert placed(fresh) == placed(optimizer)

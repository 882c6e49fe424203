"""The numeric precision of a computation: what `precision: fp32 | tf32 | bf16` means, in training and elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]
"""How a network computes; its weights are fp32 in each case.

fp32: matrix products and convolutions multiply fp32 numbers in full. tf32: a GPU with TF32 units rounds these numbers
to 10 bits of mantissa before it multiplies them; elsewhere the same as fp32. bf16: autocast to bf16, and what autocast
leaves in fp32 is computed as under fp32.
"""


def set_precision(precision: Precision) -> None:
    """Let this process's fp32 products on a GPU be computed as `precision` says; a CPU computes as before.

    torch's own default is neither fp32 nor tf32: there convolutions use TF32, and matrix products do not.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """A block or function in which `set_precision(precision)` holds; what held before holds again after it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_precision(precision)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

"""From latents to images without a wait: on a GPU the decoder runs beside the next batch's denoising."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Decode = Callable[[Tensor], Tensor]


def decoded(latents: Iterable[Tensor], decode: Decode, device: torch.device) -> Iterator[Tensor]:
    """The images of each batch of latents, in order, on the CPU.

    On a GPU each batch is decoded on a stream beside the one that draws and handed out once the next one is on its way;
    on a CPU, where both would share the same cores, one after the other.
    """
    if device.type != "cuda":
        for z in latents:
            yield decode(z).cpu()
        return
    stream = side_stream(device)
    previous: _OnItsWay | None = None
    for z in latents:
        current = _start(z, decode, stream)
        if previous is not None:
            yield previous.images()
        previous = current
    if previous is not None:
        yield previous.images()


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of this process that decodes on `device`; another one for each draw would keep memory for itself."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class _OnItsWay:
    """Images in pinned memory that are there once `ready` has passed."""

    on_host: Tensor
    ready: torch.cuda.Event

    def images(self) -> Tensor:
        self.ready.synchronize()
        return self.on_host


def _start(z: Tensor, decode: Decode, stream: torch.cuda.Stream) -> _OnItsWay:
    stream.wait_stream(torch.cuda.current_stream(z.device))
    with torch.cuda.stream(stream):
        images = decode(z)
        z.record_stream(stream)
        on_host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
        on_host.copy_(images, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(stream)
    return _OnItsWay(on_host, ready)

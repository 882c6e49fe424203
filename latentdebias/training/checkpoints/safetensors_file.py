"""Writing safetensors files in pieces, which are hashed while they are written, and copying tensors for later writing.

The format: https://huggingface.co/docs/safetensors, section "Format". safetensors' own writer wants all tensors in CPU
memory, and its file must be read again for a checksum.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

# The names of dtypes in a file, in the order in which safetensors' own writer lays tensors out.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
PIECE_BYTES = 2**26
BLOCK_BYTES = 2**28
ALIGNMENT = 16


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    """Write a synced safetensors file with `notes` as its metadata, and return the sha256 of its bytes, in hex.

    The tensors may be on any device: at most `PIECE_BYTES` of them are copied at a time.
    """
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as hasher:
        for piece in _pieces({name: tensors[name] for name in names}, notes):
            hashed = hasher.submit(digest.update, piece)
            file.write(piece)
            hashed.result()
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Iterator[memoryview]:
    header: dict[str, object] = {"__metadata__": dict(notes)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        for piece in flat.split(PIECE_BYTES):
            yield memoryview(piece.cpu().numpy())


def copies_on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors in CPU memory, pinned where they come from a GPU: then copying is several times faster.

    Many tensors share a block of memory, for torch rounds the size of pinned blocks up to powers of two.
    """
    copies: dict[str, Tensor] = {}
    remaining = sum(_aligned(tensor.nbytes) for tensor in tensors.values())
    block, used = torch.empty(0, dtype=torch.uint8), 0
    pinned = any(tensor.is_cuda for tensor in tensors.values())
    for name, tensor in tensors.items():
        if used + tensor.nbytes > block.numel():
            size = max(min(BLOCK_BYTES, remaining), tensor.nbytes)
            block, used = torch.empty(size, dtype=torch.uint8, pin_memory=pinned), 0
        copies[name] = block[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies[name].copy_(tensor, non_blocking=True)
        used += _aligned(tensor.nbytes)
        remaining -= _aligned(tensor.nbytes)
    if pinned:
        torch.cuda.synchronize()
    return copies


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT

"""The index of a shard: where in its tar each sample begins, with its label; read from files that are not trusted."""

import io
import math
import tarfile
from pathlib import Path

import numpy as np

from latentdebias.shards.format import INDEX_DTYPE, NPY_HEADER, Plan, ShardRecord, index_path


def read_index(directory: Path, shard: ShardRecord, plan: Plan) -> np.ndarray:
    """The index of a shard of `plan`: see the function `checked_index`."""
    return checked_index(index_path(directory, shard.name).read_bytes(), shard, plan)


def checked_index(data: bytes, shard: ShardRecord, plan: Plan) -> np.ndarray:
    """The index in the bytes of a `.npy` file, of shape `(shard.count,)` and dtype `INDEX_DTYPE`: a row a sample.

    `ValueError` where the bytes are no such index, or it points outside the shard's tar or the classes of the set. The
    file's own header is not trusted: nothing is unpickled, unzipped or allocated by what it says.
    """
    buffer = io.BytesIO(data)
    try:
        sound = np.lib.format.read_magic(buffer) == (1, 0)
        header = np.lib.format.read_array_header_1_0(buffer) if sound else None
    except Exception as error:  # numpy evaluates the header, and passes on whatever that raises
        raise ValueError(f"its header cannot be read: {error}") from None
    left = len(data) - buffer.tell()
    if header != ((shard.count,), False, INDEX_DTYPE) or left != shard.count * INDEX_DTYPE.itemsize:
        raise ValueError(f"it does not hold {shard.count} rows of {INDEX_DTYPE.names}")
    index = np.frombuffer(data, INDEX_DTYPE, offset=buffer.tell()).copy()
    last = shard.size - math.prod(plan.stored_shape) * plan.stored_dtype.itemsize
    starts = np.concatenate([index["latent"], index["flip"][index["flip"] != -1]])
    if ((starts < NPY_HEADER + tarfile.BLOCKSIZE) | (starts > last)).any():
        raise ValueError(f"it points outside the {shard.size} bytes of its tar")
    if ((index["label"] < -1) | (index["label"] >= max(plan.num_classes, 1))).any():
        raise ValueError(f"it has labels beyond the {plan.num_classes} classes of the set")
    return index

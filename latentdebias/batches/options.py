"""The `data` section of a run config: which shard set is trained, and how batches are made of it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from latentdebias.batches.normalization import NormalizationKind
from latentdebias.registry import Spec, option


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The `data` section of a run config; what is null there is read from the set's manifest."""

    shards: str = option(..., "a folder written by encode, or its address: https://..., s3://...", "free")
    reader: Spec = option("indexed", "indexed | streaming: reads shards in sequence, at an address too")
    cache: str | None = option(None, "a folder for local copies of remote shards, at most cache_gb of them", "free")
    cache_gb: PositiveFloat = option(100.0, "GB of tars in the cache", "free")
    vae: str | None = option(None, "the autoencoder that made the shards", "free")
    resolution: PositiveInt | None = option(None, "pixels of an image's side", "free")
    latent_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = option(None, "[C, h, w]", "free")
    num_classes: NonNegativeInt | None = option(None, "0: unconditional", "free")
    num_images: PositiveInt | None = option(None, "for plan alone, while there are no shards yet", "free")
    normalization: NormalizationKind = option(
        "channel", "channel: the set's own mean and std | scaling: the autoencoder's scaling factor"
    )
    order: Spec = option(
        "shuffle",
        "of reader indexed: shuffle | blocks: for network storage; {name: blocks, block: 4096, blocks_in_window: 16}",
    )
    flip: bool = option(False, "mirror half of the samples; needs shards encoded with --flip")
    label_drop: Annotated[float, Field(ge=0, le=1)] = option(
        0.1, "share of labels replaced by the null class, for classifier-free guidance"
    )
    workers: NonNegativeInt = option(2, "processes that read ahead; 0 reads in the training process", "free")

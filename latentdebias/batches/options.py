"""The `data` section of a run config: which shard set is trained, and how batches are made of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from latentdebias.batches.draws import NoiseSource
from latentdebias.batches.normalization import NormalizationKind
from latentdebias.batches.order import ORDERS, SampleOrder
from latentdebias.batches.reader import TrainingSet
from latentdebias.registry import Registry, option
from latentdebias.shards.format import NumClasses, Side


class Reader(ABC):
    """A way of reading shards; its fields are its options under `data.reader` of a run config."""

    @abstractmethod
    def open(self, data: "DataOptions") -> TrainingSet:
        """The set of `data.shards`, ready to be read; `UserError` where it cannot be read in this way."""


READERS: Registry[Reader] = Registry("data.reader")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The `data` section of a run config; what is null there is read from the set's manifest."""

    shards: str = option(
        "shards/imagenet256", "a folder written by encode, or its address: https://..., s3://...", on_resume="free"
    )
    reader: Annotated[Reader, READERS.part] = option(
        lambda: READERS.build("indexed"),
        "streaming reads shards in sequence, at an address too, in an order of its own:  {name: streaming, "
        "shuffle_buffer: 4096, shards_at_once: 16}",
        on_resume="free",
    )
    cache: str | None = option(
        None, "a folder for local copies of remote shards, at most cache_gb of them", on_resume="free"
    )
    cache_gb: PositiveFloat = option(100.0, "", on_resume="free")
    vae: str | None = option(
        None,
        "what the shards must be, from here to num_classes; null: whatever they are. Stated here, the model can be "
        "checked without them",
        on_resume="free",
    )
    resolution: Side | None = option(None, "", on_resume="free")
    latent_shape: tuple[Side, Side, Side] | None = option(None, "[C, h, w]", on_resume="free")
    num_classes: NumClasses | None = option(None, "0: unconditional", on_resume="free")
    num_images: PositiveInt | None = option(None, "for plan alone, while there are no shards yet", on_resume="free")
    normalization: NormalizationKind = option(
        "channel", "channel: the set's own mean and std | scaling: the autoencoder's scaling factor"
    )
    order: Annotated[SampleOrder, ORDERS.part] = option(
        ORDERS.build("shuffle"),
        "of reader indexed; blocks is for network storage:  {name: blocks, block: 4096, blocks_in_window: 16}",
    )
    flip: bool = option(False, "mirror half of the samples; needs shards encoded with --flip")
    label_drop: Annotated[float, Field(ge=0, le=1)] = option(
        0.1, "share of labels replaced by the null class, for classifier-free guidance"
    )
    noise: NoiseSource = option(
        "host",
        "host: drawn by the processes that read | device: drawn by the GPU, other numbers; a CPU draws those slowly",
    )
    workers: NonNegativeInt = option(2, "processes that read ahead; 0 reads in the training process", on_resume="free")

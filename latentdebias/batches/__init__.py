"""From shards to training batches: every number in a batch is a function of (seed, position)."""

from latentdebias.batches import indexed, streaming
from latentdebias.batches.options import READERS
from latentdebias.batches.reader import TrainingSet

__all__ = ["READERS", "TrainingSet", "indexed", "streaming"]

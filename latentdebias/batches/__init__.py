"""Shards -> training batches: every number in a batch is a function of (seed, position)."""

from latentdebias.batches import indexed, streaming
from latentdebias.batches.reader import READERS, TrainingSet, open_training_set

__all__ = ["READERS", "TrainingSet", "indexed", "open_training_set", "streaming"]

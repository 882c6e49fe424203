"""Shards -> training batches: every number in a batch is a function of (seed, position)."""

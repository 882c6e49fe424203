"""Checkpoints that any number of ranks and any ZeRO stage resume."""

"""Import of published checkpoints as model directories."""

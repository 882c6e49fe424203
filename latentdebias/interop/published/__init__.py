"""Published checkpoints as model directories."""

"""Other people's files: published checkpoints in, diffusers in and out, the hub."""

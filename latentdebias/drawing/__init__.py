"""Latents -> pictures out: the image sampler, grids, trajectories, sample sets."""

"""Grids of runs under equal settings: read, run, scored, and reported."""

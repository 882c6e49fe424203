"""Readers of other people's files under damaged and hostile input: `python -m tests.fuzz --help`."""

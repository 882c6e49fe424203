"""The trainer: a loop that fits on one screen, and what it stands on."""

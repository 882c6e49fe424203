"""A score with all that another person needs to reproduce it."""

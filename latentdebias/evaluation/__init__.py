"""Scores of sets of images, with confidence intervals and a record of how they were made."""

"""Scores of images in pixel space, with their intervals and their protocol."""

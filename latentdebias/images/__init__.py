"""Finds, lists, decodes and crops images, for encoding and for evaluation."""

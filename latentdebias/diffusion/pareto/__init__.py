"""Bins of the schedule as tasks: the gradient of each, and loss weights solved from them (Min-SNR, section 3.3)."""

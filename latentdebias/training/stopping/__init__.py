"""How a run ends before its last step, on all ranks at once."""

"""What is done to whole sets: encode images, verify, merge, take a subset, show the status, inspect."""

"""Jobs on whole shard sets: encode images, verify, merge, take a subset, show the status, inspect."""

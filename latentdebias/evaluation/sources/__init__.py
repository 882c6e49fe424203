"""What is scored: images in folders and archives, in an `.npz`, in latent shards, or drawn from a model."""

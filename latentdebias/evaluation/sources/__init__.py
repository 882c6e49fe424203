"""Sources of images to score: folders and archives, an `.npz`, latent shards, or a model that draws them."""

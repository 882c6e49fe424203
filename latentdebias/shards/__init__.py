"""The latent set on disk: its format, writer and readers."""

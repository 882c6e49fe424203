"""Models of diffusers, in and out."""

# diffusers resolves a component of another package only where its module has been imported already.
from latentdebias.interop.diffusers import dit_transformer

__all__ = ["dit_transformer"]

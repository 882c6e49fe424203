"""Import and export of diffusers folders."""

# diffusers finds a component's class in another package only where the class's module has been imported already.
from latentdebias.interop.diffusers import dit_transformer

__all__ = ["dit_transformer"]

"""The import path by which exported folders name this package's diffusers classes.

The classes are in `latentdebias.interop.diffusers`; this path must stay as it is, for exported folders contain it.
"""

import sys

from latentdebias.interop.diffusers import custom_pipeline, dit_transformer

__all__ = ["custom_pipeline", "dit_transformer"]

for _module in (custom_pipeline, dit_transformer):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

"""The name under which exported folders know this package's diffusers classes; it stays wherever the classes move."""

import sys

from latentdebias.interop.diffusers import custom_pipeline, dit_transformer

__all__ = ["custom_pipeline", "dit_transformer"]

for _module in (custom_pipeline, dit_transformer):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

"""Registers the backbones with timm as soon as timm is imported, without importing timm itself."""

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_when_timm_is_imported() -> None:
    """Import `latentdebias.backbones`, which registers with timm: now if timm is imported already, else right after.

    So `timm.create_model("dit_xl_patch2")` works whichever package is imported first, and a program without timm does
    not spend the seconds that importing timm takes.
    """
    if "timm" in sys.modules:
        importlib.import_module("latentdebias.backbones")
    else:
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(importlib.abc.MetaPathFinder):
    """An import hook that finds timm by the other finders, and imports our backbones once timm has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module("latentdebias.backbones")

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

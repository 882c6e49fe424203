"""Where a backbone keeps its blocks."""

from torch import nn


def blocks_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The repeated blocks by their path in the backbone: its `blocks`, else those of the first list of that name."""
    for module in backbone.modules():
        if hasattr(module, "blocks"):
            blocks = {id(block) for block in module.blocks}
            return {path: block for path, block in backbone.named_modules() if id(block) in blocks}
    return {}

"""Where a backbone keeps its blocks."""

from torch import nn


def blocks_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The blocks by their path in the backbone, in order; none where it has no list named `blocks`."""
    for path, module in backbone.named_modules():
        if path.split(".")[-1] == "blocks":
            return {f"{path}.{name}": block for name, block in module.named_children()}
    return {}

"""What runs after every update besides the training itself; a user's own hook is registered in `HOOKS`."""

from latentdebias.training.hooks.hook import HOOKS, HookContext, HookSpec, together
from latentdebias.training.trainer import Hook, TrainState

__all__ = ["HOOKS", "Hook", "HookContext", "HookSpec", "TrainState", "together"]

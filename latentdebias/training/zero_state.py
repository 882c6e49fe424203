"""The weights and the optimizer's state of a run, which ZeRO shares out over the ranks: read, gathered, restored."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentdebias import distributed
from latentdebias.training.engine import Engine, gathered_master, gathered_weight
from latentdebias.training.zero_layouts import Fragment, Layout, ReadWeight, layout_of

# What a parameter group holds of the config, besides the optimizer's own defaults.
OPTIONS = {"params", "lr", "initial_lr", "weight_decay"}


class ZeroState:
    """This rank's share of the weights and of the optimizer's state under `engine`, and the whole weights on demand."""

    def __init__(self, engine: Engine) -> None:
        self.zero_stage, self.device = engine.zero_stage, engine.device
        self._module: nn.Module = engine.deepspeed.module
        self._optimizer = engine.base_optimizer
        self._trained = engine.trained
        self._layout: Layout = layout_of(engine.zero_stage, engine.deepspeed.optimizer, engine.trained)
        self.partitions = self._layout.partitions
        """This rank's share of the fp32 weights, as the optimizer updates them in place; all of them at stage 0."""

    def fragments(self) -> list[Fragment]:
        """Which numbers of which weights the partitions hold."""
        return self._layout.fragments()

    def optimizer_state(self, partition: int) -> dict[str, Any]:
        """The optimizer's own state of partition number `partition`, such as Adam's moments; writing to it counts."""
        state: dict[str, Any] = self._optimizer.state[self._layout.optimizer_keys[partition]]
        return state

    def has_optimizer_state(self) -> bool:
        """Whether the optimizer has allocated its state, which most do at the first update."""
        return bool(self._optimizer.state)

    def usual_device(self, partition: int, state: str) -> torch.device:
        """The device on which an optimizer keeps its `state` of a partition, by torch's rule for loading state dicts.

        Everything is beside the weights, except the count of steps, which only a fused optimizer keeps there.
        """
        beside = state != "step" or self._optimizer.defaults.get("fused")
        return self.partitions[partition].device if beside else torch.device("cpu")

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """What the optimizer counts for each parameter group: numbers, and 0-dim tensors as `{"tensor": number}`."""
        configured = {*self._optimizer.defaults, *OPTIONS}
        return [
            {key: _as_plain(value) for key, value in group.items() if key not in configured and _is_number(value)}
            for group in self._optimizer.param_groups
        ]

    def restore_groups(self, saved: list[dict[str, Any]]) -> None:
        """Put back what `optimizer_groups` gave."""
        for group, counted in zip(self._optimizer.param_groups, saved, strict=True):
            for key, value in counted.items():
                group[key] = torch.tensor(value["tensor"]) if isinstance(value, dict) else value

    def untrained(self) -> list[str]:
        """The names in the state dict that the optimizer does not update: frozen weights and buffers."""
        return [name for name in self._module.state_dict() if name not in self._trained]

    def untrained_weights(self) -> dict[str, Tensor]:
        """Copies of the frozen weights and buffers, whole, on the CPU; every rank must call it."""
        weights = self._weights()
        return {name: self._gather(weights[name]).to("cpu", copy=True) for name in self.untrained()}

    @torch.no_grad()
    def restore_untrained(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `untrained_weights` gave; every rank must call it."""
        weights = self._weights()
        for name, value in saved.items():
            with gathered_weight(weights[name], written_by=0):
                weights[name].copy_(value)

    @torch.no_grad()
    def update_model(self, read: ReadWeight) -> None:
        """After a write to the partitions: copy them to the weights that the forward pass computes with.

        `read(name, numel)` gives a whole weight, flattened; it must be what the partitions of all ranks hold together.
        """
        self._layout.update_model(read)

    @torch.no_grad()
    def gathered_weights(self) -> dict[str, Tensor]:
        """The whole fp32 state dict, on the CPU, on rank 0; empty elsewhere. Every rank must call it."""
        weights, gathered = self._weights(), {}
        for name in self._module.state_dict():
            whole = self._gather(weights[name])
            if distributed.rank() == 0:
                gathered[name] = whole.detach().to("cpu", copy=True)
        return gathered

    def _weights(self) -> dict[str, Tensor]:
        return {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}

    def _gather(self, weight: Tensor) -> Tensor:
        if self.zero_stage and weight.requires_grad:
            return gathered_master(weight)
        with gathered_weight(weight):
            return weight.detach().clone()


def _is_number(value: Any) -> bool:
    return value.dim() == 0 if isinstance(value, Tensor) else type(value) in (int, float)


def _as_plain(value: Any) -> Any:
    return {"tensor": value.item()} if isinstance(value, Tensor) else value

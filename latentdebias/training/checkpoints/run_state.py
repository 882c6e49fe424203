"""A run's state as pieces of named weights: written by each rank, read by any number of ranks at any ZeRO stage.

DeepSpeed's own checkpoints are pickles, and its universal format holds Adam's two moments and nothing else. Here each
rank writes one safetensors file of flat pieces, `fp32/blocks.0.attn.qkv.weight`, `exp_avg/...`, an average of the
weights under its own name, and notes where in the weight each piece starts. Whoever needs numbers [a, b) finds them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentdebias import distributed
from latentdebias.training.checkpoints.fragments import Fragment
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine

FP32, UNTRAINED = "fp32", "untrained"


@dataclass
class Snapshot:
    """One rank's share of the state, copied to the CPU: pieces with their starts, whole small tensors, and numbers."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        notes = {"starts": self.starts, "numbers": self.numbers, "groups": self.groups}
        save_file(self.tensors, path, metadata={name: json.dumps(note) for name, note in notes.items()})


class SavedState:
    """The state in the files of a checkpoint, however many ranks wrote it."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.numbers: dict[str, float] = {}
        self.groups: list[dict[str, Any]] = []
        self._wholes: dict[str, Any] = {}
        self._pieces: dict[str, list[tuple[Any, int]]] = {}
        self._states: dict[str, set[str]] = {}
        for path in files:
            self._index(safe_open(path, "pt"))

    def _index(self, file: Any) -> None:
        notes = {name: json.loads(note) for name, note in file.metadata().items()}
        self.numbers.update(notes["numbers"])
        self.groups = notes["groups"]
        for key in [*file.keys(), *notes["numbers"]]:
            state, name = key.split("/", 1)
            self._states.setdefault(name, set()).add(state)
            if key in notes["starts"]:
                self._pieces.setdefault(key, []).append((file, notes["starts"][key]))
            elif key not in notes["numbers"]:
                self._wholes[key] = file

    def states_of(self, name: str) -> set[str]:
        """What was saved of weight `name`: fp32, the optimizer's states, the averages."""
        return self._states[name]

    def is_cut(self, key: str) -> bool:
        """Whether `key` was saved in pieces of a flattened weight."""
        return key in self._pieces

    def whole(self, key: str) -> Tensor:
        """A tensor that was saved whole."""
        tensor: Tensor = self._wholes[key].get_tensor(key)
        return tensor

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """Numbers [start, start + numel) of a flattened weight, fp32."""
        found, missing = torch.empty(numel), numel
        for file, first in self._pieces[key]:
            piece = file.get_slice(key)
            low, high = max(start, first), min(start + numel, first + piece.get_shape()[0])
            if low < high:
                found[low - start : high - start] = piece[low - first : high - first]
                missing -= high - low
        assert missing == 0, f"{missing} numbers of {key} are in no file of the checkpoint"
        return found


class RunState:
    """What a checkpoint holds: weights, optimizer states, averages, and untrained weights and buffers."""

    def __init__(self, engine: Engine, ema: PartitionedEMA) -> None:
        self.engine, self.ema = engine, ema

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """A copy of this rank's share; every rank must call it."""
        snapshot = Snapshot(groups=self.engine.optimizer_groups())
        for fragment in self._to_write():
            for state, value in self._held(fragment.partition).items():
                self._add(snapshot, f"{state}/{fragment.name}", value, fragment)
        untrained = self.engine.untrained_weights()
        if distributed.rank() == 0:
            snapshot.tensors.update({f"{UNTRAINED}/{name}": weight for name, weight in untrained.items()})
        return snapshot

    @torch.no_grad()
    def restore(self, saved: SavedState) -> None:
        """Put the saved numbers where this rank holds them; every rank must call it."""
        for fragment in self.engine.fragments():
            for state in saved.states_of(fragment.name):
                self._fill(fragment, state, saved)
        self.engine.restore_groups(saved.groups)
        self.engine.restore_untrained({name: saved.whole(f"{UNTRAINED}/{name}") for name in self.engine.untrained()})
        self.engine.follow_partitions(lambda name, numel: saved.read(f"{FP32}/{name}", 0, numel))

    def _to_write(self) -> Iterator[Fragment]:
        for fragment in self.engine.fragments():
            if self.engine.zero_stage == 0:
                fragment = fragment.share(distributed.rank(), distributed.world_size())
            if fragment.numel:
                yield fragment

    def _held(self, partition: int) -> dict[str, Any]:
        averages = {name: values[partition] for name, values in self.ema.averages.items()}
        return {
            FP32: self.engine.fp32_partitions()[partition],
            **self.engine.optimizer_state(partition),
            **averages,
        }

    def _add(self, snapshot: Snapshot, key: str, value: Any, fragment: Fragment) -> None:
        if not isinstance(value, Tensor):
            snapshot.numbers[key] = value
        elif self._is_flat(value, fragment):
            piece = value.detach().view(-1)[fragment.offset : fragment.offset + fragment.numel]
            snapshot.tensors[key] = piece.to("cpu", copy=True)
            snapshot.starts[key] = fragment.start
        else:
            snapshot.tensors[key] = value.detach().to("cpu", copy=True)

    def _is_flat(self, value: Tensor, fragment: Fragment) -> bool:
        return value.dim() > 0 and value.numel() == self.engine.fp32_partitions()[fragment.partition].numel()

    def _fill(self, fragment: Fragment, state: str, saved: SavedState) -> None:
        key, states = f"{state}/{fragment.name}", self.engine.optimizer_state(fragment.partition)
        if key in saved.numbers:
            states[state] = saved.numbers[key]
        elif not saved.is_cut(key):
            states[state] = saved.whole(key).to(self.engine.count_device(fragment.partition))
        else:
            held = self._held(fragment.partition)
            target = held[state] if state in held else states.setdefault(state, torch.zeros_like(held[FP32]))
            piece = saved.read(key, fragment.start, fragment.numel)
            target.view(-1)[fragment.offset : fragment.offset + fragment.numel].copy_(piece)

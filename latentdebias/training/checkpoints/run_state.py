"""A run's state as pieces of named weights: written by each rank, read by any number of ranks at any ZeRO stage.

DeepSpeed's own checkpoints are pickles, and its universal format holds Adam's two moments and nothing else. Here each
rank writes one safetensors file of flat pieces, `fp32/blocks.0.attn.qkv.weight`, `exp_avg/...`, an average of the
weights under its own name, and notes where in the weight each piece starts, so that a rank which needs the numbers
[a, b) of a weight finds them in the files of the ranks that wrote them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from latentdebias import distributed
from latentdebias.diffusion.weightings.learned import without_uncertainty
from latentdebias.training.checkpoints.safetensors_file import copies_on_cpu, write_safetensors
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.zero_layouts import Fragment
from latentdebias.training.zero_state import ZeroState

FP32, UNTRAINED, SHARED = "fp32", "untrained", "shared"
FP32_BYTES = 4


@dataclass
class StateShare:
    """One rank's share of a run's state: pieces of weights with their starts, small tensors, and numbers.

    `on_cpu` names the tensors that the optimizer keeps on the CPU where torch's rule says beside the weights.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    on_cpu: list[str] = field(default_factory=list)

    def notes(self) -> dict[str, str]:
        """What stands in a file's header beside the tensors, each as JSON; `on_cpu` only where it names a tensor."""
        notes = {"starts": self.starts, "numbers": self.numbers, "groups": self.groups}
        if self.on_cpu:
            notes["on_cpu"] = self.on_cpu
        return {name: json.dumps(note) for name, note in notes.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def copied(self) -> "StateShare":
        """This share with copies of the tensors, on the CPU."""
        return replace(self, tensors=copies_on_cpu(self.tensors))

    def write(self, path: Path) -> str:
        """Write a safetensors file, with `notes` in its header, and return its sha256."""
        return write_safetensors(path, self.tensors, self.notes())


class SavedState:
    """The state in the files of a checkpoint, however many ranks wrote it."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.numbers: dict[str, float] = {}
        self.groups: list[dict[str, Any]] = []
        self.on_cpu: set[str] = set()
        self._wholes: dict[str, Any] = {}
        self._pieces: dict[str, list[tuple[Any, int]]] = {}
        self._states: dict[str, set[str]] = {}
        for path in files:
            self._index(safe_open(path, "pt"))

    def _index(self, file: Any) -> None:
        notes = {name: json.loads(note) for name, note in file.metadata().items()}
        self.numbers.update(notes["numbers"])
        self.groups = notes["groups"]
        self.on_cpu.update(notes.get("on_cpu", []))
        for key in [*file.keys(), *notes["numbers"]]:
            state, name = key.split("/", 1)
            self._states.setdefault(name, set()).add(state)
            if key in notes["starts"]:
                self._pieces.setdefault(key, []).append((file, notes["starts"][key]))
            elif key not in notes["numbers"]:
                self._wholes[key] = file

    def states_of(self, name: str) -> set[str]:
        """The kinds of state saved of weight `name`: `fp32`, the optimizer's own such as `exp_avg`, the averages."""
        return self._states[name]

    def is_cut(self, key: str) -> bool:
        """Whether `key` was saved in pieces of a flattened weight."""
        return key in self._pieces

    def whole(self, key: str) -> Tensor:
        """A tensor that was saved whole."""
        tensor: Tensor = self._wholes[key].get_tensor(key)
        return tensor

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """Numbers [start, start + numel) of a flattened weight, or of an optimizer's state of it, as it was saved."""
        pieces = [(file.get_slice(key), first) for file, first in self._pieces[key]]
        found, missing = torch.empty(numel, dtype=pieces[0][0][:0].dtype), numel
        for piece, first in pieces:
            low, high = max(start, first), min(start + numel, first + piece.get_shape()[0])
            if low < high:
                found[low - start : high - start] = piece[low - first : high - first]
                missing -= high - low
        assert missing == 0, f"{missing} numbers of {key} are in no file of the checkpoint"
        return found


class RunState:
    """What a checkpoint holds: weights, optimizer states, averages, and untrained weights and buffers.

    `shared` holds small tensors by name that are the same on every rank; a checkpoint is restored into them.
    """

    def __init__(self, zero_state: ZeroState, ema: PartitionedEMA) -> None:
        self.zero_state, self.ema = zero_state, ema
        self.shared: dict[str, Tensor] = {}

    def expected_bytes(self, optimizer_bytes: float) -> int:
        """Bytes of this rank's share, where the optimizer keeps `optimizer_bytes` for each number of a weight."""
        numbers = sum(fragment.numel for fragment in self._to_write())
        return int(numbers * (FP32_BYTES * (1 + len(self.ema.averages)) + optimizer_bytes))

    def host_bytes_to_come(self, optimizer_bytes: float) -> int:
        """Bytes that the next update allocates on the CPU: gradients, and the optimizer's state if it has none yet."""
        on_cpu = sum(each.numel() for each in self.zero_state.partitions if each.device.type == "cpu")
        return int(on_cpu * (FP32_BYTES + (0 if self.zero_state.has_optimizer_state() else optimizer_bytes)))

    def gathered(self, average: str) -> dict[str, Tensor]:
        """The network's state dict in an average, fp32 on the CPU, on rank 0; empty elsewhere. Every rank must call it.

        `average` is a name as in `EMAOptions.names`, or `none` for the weights themselves.
        """
        with self.ema.swapped_in(average):
            return without_uncertainty(self.zero_state.gathered_weights())

    @torch.no_grad()
    def share(self) -> StateShare:
        """This rank's share of the state, whose tensors change with the next update; every rank must call it."""
        share = StateShare(groups=self.zero_state.optimizer_groups())
        for fragment in self._to_write():
            for state, value in self._held(fragment.partition).items():
                self._add(share, f"{state}/{fragment.name}", value, fragment)
                if isinstance(value, Tensor) and self._is_away(fragment.partition, state, value):
                    share.on_cpu.append(f"{state}/{fragment.name}")
        untrained = self.zero_state.untrained_weights()
        if distributed.rank() == 0:
            share.tensors.update({f"{UNTRAINED}/{name}": weight for name, weight in untrained.items()})
            share.tensors.update({f"{SHARED}/{name}": tensor.clone() for name, tensor in self.shared.items()})
        return share

    @torch.no_grad()
    def restore(self, saved: SavedState) -> None:
        """Put the saved numbers where this rank holds them; every rank must call it."""
        for fragment in self.zero_state.fragments():
            for state in saved.states_of(fragment.name):
                self._fill(fragment, state, saved)
        self.zero_state.restore_groups(saved.groups)
        self.zero_state.restore_untrained(
            {name: saved.whole(f"{UNTRAINED}/{name}") for name in self.zero_state.untrained()}
        )
        for name, tensor in self.shared.items():
            tensor.copy_(saved.whole(f"{SHARED}/{name}"))
        self.zero_state.update_model(lambda name, numel: saved.read(f"{FP32}/{name}", 0, numel))

    def _to_write(self) -> Iterator[Fragment]:
        for fragment in self.zero_state.fragments():
            if self.zero_state.zero_stage == 0:
                fragment = fragment.piece_of(distributed.rank(), distributed.world_size())
            if fragment.numel:
                yield fragment

    def _held(self, partition: int) -> dict[str, Any]:
        averages = {name: values[partition] for name, values in self.ema.averages.items()}
        return {
            FP32: self.zero_state.partitions[partition],
            **self.zero_state.optimizer_state(partition),
            **averages,
        }

    def _add(self, share: StateShare, key: str, value: Any, fragment: Fragment) -> None:
        if not isinstance(value, Tensor):
            share.numbers[key] = value
        elif self._is_flat(value, fragment):
            piece = value.detach().view(-1)[fragment.offset : fragment.offset + fragment.numel]
            share.tensors[key] = piece
            share.starts[key] = fragment.start
        else:
            share.tensors[key] = value.detach()

    def _is_flat(self, value: Tensor, fragment: Fragment) -> bool:
        return value.dim() > 0 and value.numel() == self.zero_state.partitions[fragment.partition].numel()

    def _is_away(self, partition: int, state: str, value: Tensor) -> bool:
        """Whether `value` is on the CPU, though torch's rule has the optimizer's `state` beside weights on a GPU."""
        return value.device.type == "cpu" != self.zero_state.usual_device(partition, state).type

    def _fill(self, fragment: Fragment, state: str, saved: SavedState) -> None:
        key, states = f"{state}/{fragment.name}", self.zero_state.optimizer_state(fragment.partition)
        if key in saved.numbers:
            states[state] = saved.numbers[key]
        elif not saved.is_cut(key):
            device = "cpu" if key in saved.on_cpu else self.zero_state.usual_device(fragment.partition, state)
            states[state] = saved.whole(key).to(device)
        else:
            held, piece = self._held(fragment.partition), saved.read(key, fragment.start, fragment.numel)
            target = held.get(state)
            if target is None:
                target = states[state] = torch.zeros_like(held[FP32], dtype=piece.dtype)
            target.view(-1)[fragment.offset : fragment.offset + fragment.numel].copy_(piece)

"""Checkpoints that are whole or absent, written behind the training, resumed by step number, and free of pickles.

Each rank writes its share into `step-N.tmp`; once all have, rank 0 adds `COMMIT.json` with the sha256 of each file and
renames the folder to `step-N`. A folder without a valid `COMMIT.json` is no checkpoint.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.files import publish, sync_folder
from latentdebias.process_groups import cpu_group, from_first
from latentdebias.training.checkpoints.committed import COMMIT, committed_in, damage_of, file_name, step_of
from latentdebias.training.checkpoints.host_memory import fits, free_host_memory
from latentdebias.training.checkpoints.run_state import RunState, SavedState, StateShare

FORMAT_VERSION = 2
"""Version 1 named no version, and recorded a schedule `linear` of other than 1000 timesteps in another meaning."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """Keep the last `keep`, and those of every `keep_every` steps (0: none beside).

    A stop waits `stop_within` seconds for a checkpoint (0: for ever).
    """

    keep: int
    keep_every: int = 0
    stop_within: float = 0


@dataclass(frozen=True)
class Write:
    """How many bytes were written, and in how many seconds, synced to disk."""

    nbytes: int
    seconds: float

    def __str__(self) -> str:
        rate = self.nbytes / max(self.seconds, 1e-9)
        return f"{self.nbytes / 1e9:.2f} GB in {self.seconds:.1f} s, {rate / 1e9:.2f} GB/s"


class Settings(Protocol):
    """What a run's checkpoints must agree with to be resumed."""

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The settings by name, as JSON holds them."""

    def differences(self, saved: Mapping[str, Any], version: int) -> list[str]:
        """Each setting that a checkpoint of format `version` recorded otherwise, in words."""


class Checkpoints:
    """The `checkpoints/` folder of a run; every method is called on all ranks."""

    def __init__(self, directory: Path, state: RunState, settings: Settings, policy: CheckpointPolicy) -> None:
        self.directory, self.state = directory, state
        self.policy = policy
        self.settings = settings
        self._copied: bool | None = None
        self._last_write: Write | None = None
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        # The writers agree among themselves while the training uses the default group.
        self._group = cpu_group("checkpoints")

    def save(self, step: int) -> None:
        """Copy the state after `step` updates, and write and commit it in the background.

        Where the memory of a rank's machine does not hold the copy, the state itself is written piece by piece, and
        all ranks wait for it. Raises `UserError` where a weight is not finite, or where the write before this one, or
        one that was waited for, failed.
        """
        self.finish()
        share = self.state.share()
        self._check(step, share.nbytes)
        if self._copied:
            self._writing = self._writer.submit(self._write, share.copied(), step)
        else:
            self._write(share, step)

    def describe_memory(self, optimizer_bytes: float) -> str:
        """Whether this rank's host holds a copy of the state beside the training, in words, as the run starts.

        The optimizer keeps `optimizer_bytes` for each number of a weight, which it allocates at the first step.
        """
        size = self.state.expected_bytes(optimizer_bytes)
        free = free_host_memory() - self.state.host_bytes_to_come(optimizer_bytes)
        told = f"checkpoints take {size / 1e9:.2f} GB a rank, and the host has {max(0, free) / 1e9:.2f} GB a rank free"
        if fits(size, free):
            return f"{told}: they are copied there and written while the training goes on"
        return f"{told}: no room for a copy, so the training waits while one is written"

    def describe_last_write(self) -> str:
        """How large the last checkpoint was and how long its write took on this rank, in words."""
        if self._last_write is None:
            return "the first of this process, so nothing is known of how long it takes"
        return f"{self._last_write}, the last time"

    def failed(self) -> bool:
        """Whether a write in the background has failed by now, which ranks may learn at different steps."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def finish(self) -> None:
        """Wait for the write in the background; raises `UserError` where it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def resume(self) -> int:
        """Load the newest whole checkpoint and return its step, 0 where the run has none.

        It may come from another number of ranks or ZeRO stage. Raises `UserError` where its settings differ, or where
        checkpoints exist and none is whole.
        """
        found = self._newest()
        if found is None:
            return 0
        commit = json.loads((found / COMMIT).read_text())
        self._refuse_other_settings(found, commit)
        try:
            saved = SavedState([found / name for name in commit["sha256"]])
        except SafetensorError as error:
            raise UserError(
                f"Checkpoint {found} cannot be read as safetensors ({error}), so this project did not write it; delete "
                f"its folder to resume from the one before."
            ) from None
        self.state.restore(saved)
        return int(commit["step"])

    def _check(self, step: int, nbytes: int) -> None:
        """Raise `UserError` where a weight is not finite; at the first checkpoint, decide whether `nbytes` are copied.

        All ranks decide alike. Later the memory that the first copy took is there, and counts as taken.
        """
        # The largest magnitude, which needs no memory: NaN where there is one.
        partitions = [each for each in self.state.zero_state.partitions if each.numel()]
        largest = torch.stack([torch.linalg.vector_norm(each, float("inf")) for each in partitions])
        bad = (~largest.isfinite()).any().float().to(self.state.zero_state.device)
        short = not fits(nbytes, free_host_memory()) if self._copied is None else not self._copied
        found = torch.stack([bad, torch.full_like(bad, short)])
        torch.distributed.all_reduce(found)
        any_bad, any_short = found.tolist()
        if any_bad:
            raise UserError(
                f"At step {step} some weights are not finite, so no checkpoint is written; the last one is intact. "
                f"Lower optimizer.lr or training.grad_clip, or cap the weighting with max_weight, and rerun."
            )
        if any_short and self._copied is None and distributed.rank() == 0:
            print(
                f"\nthe training waits for each checkpoint: the memory of the host does not hold a copy of the state "
                f"({nbytes / 1e9:.2f} GB a rank)",
                file=sys.stderr,
            )
        self._copied = not any_short

    def _write(self, share: StateShare, step: int) -> None:
        final = self.directory / f"step-{step:08d}"
        temporary = final.with_suffix(".tmp")
        self._on_all_ranks(temporary, self._clear_leftovers)
        digests = self._on_all_ranks(temporary, lambda: self._write_share(share, temporary))
        sha256 = {file_name(rank): digest for rank, digest in enumerate(digests)}
        record = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "settings": self.settings.recorded,
            "zero_stage": self.state.zero_state.zero_stage,
            "sha256": sha256,
        }
        self._on_all_ranks(temporary, lambda: self._commit(temporary, final, record))

    def _clear_leftovers(self) -> str:
        if distributed.rank() == 0:
            for leftover in self.directory.glob("step-*.tmp"):
                shutil.rmtree(leftover)
        return ""

    def _write_share(self, share: StateShare, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file_name(distributed.rank())
        start = time.monotonic()
        sha256 = share.write(path)
        self._note(Write(share.nbytes, time.monotonic() - start))
        return sha256

    def _note(self, write: Write) -> None:
        """Keep how long a write took; say so on rank 0 where the first one took longer than a stop waits."""
        limit = self.policy.stop_within
        if self._last_write is None and distributed.rank() == 0 and 0 < limit < write.seconds:
            print(
                f"\nWARNING: writing a checkpoint took longer ({write}) than a stop waits for it (training.stop_within="
                f"{limit:g}): a stopped run may end without one. Where whoever stops it waits that long: --set "
                f"training.stop_within={2 * write.seconds:.0f}",
                file=sys.stderr,
            )
        self._last_write = write

    def _on_all_ranks(self, temporary: Path, work: Callable[[], str]) -> list[str]:
        """What `work` answers on each rank, once it is done on all; `UserError` on all where it fails on one."""
        failed, answer = False, ""
        try:
            answer = work()
        except Exception as error:  # whatever it is, the other ranks wait for this one's word
            failed, answer = True, str(error) or type(error).__name__
        outcomes: list[Any] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(outcomes, (failed, answer), group=self._group)
        errors = [text for failed, text in outcomes if failed]
        if errors:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"The checkpoint {temporary.with_suffix('')} could not be written: {errors[0]} The checkpoints before "
                f"it are intact; make room or mend the cause, and run the same command again."
            )
        return [text for _, text in outcomes]

    def _commit(self, temporary: Path, final: Path, record: Mapping[str, Any]) -> str:
        if distributed.rank():
            return ""
        publish(temporary / COMMIT, (json.dumps(record, indent=1) + "\n").encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync_folder(self.directory)
        self._prune(record["step"])
        return ""

    def _prune(self, step: int) -> None:
        # Later ones are damaged, or this one would not have been trained to.
        for path in [path for path in committed_in(self.directory) if step_of(path) <= step][: -self.policy.keep]:
            if not self.policy.keep_every or step_of(path) % self.policy.keep_every:
                shutil.rmtree(path)

    def _newest(self) -> Path | None:
        """The newest checkpoint whose files all match their checksums, as rank 0 finds it."""
        # The others wait on the CPU: to hash large checkpoints may take longer than a collective may.
        found: Path | str | None = from_first(self._newest_whole() if distributed.rank() == 0 else None)
        if isinstance(found, str):
            raise UserError(found)
        return found

    def _newest_whole(self) -> Path | str | None:
        candidates = committed_in(self.directory)
        for path in reversed(candidates):
            damage = damage_of(path)
            if not damage:
                return path
            print(f"WARNING: checkpoint {path} is damaged ({damage}); trying the one before it", file=sys.stderr)
        if candidates:
            return (
                f"Every checkpoint in {self.directory} is damaged, so the run cannot be resumed; to start it anew, "
                f"delete that folder or set another run_dir."
            )
        return None

    def _refuse_other_settings(self, found: Path, commit: Mapping[str, Any]) -> None:
        differences = self.settings.differences(commit["settings"], commit.get("format_version", 1))
        if differences:
            raise UserError(
                f"Checkpoint {found} was written under other settings ({'; '.join(differences)}); restore them to "
                f"resume it, name those that are to change, as in --set training.may_change=[optimizer.lr], or set "
                f"another run_dir to start anew: --set run_dir=runs/NAME"
            )

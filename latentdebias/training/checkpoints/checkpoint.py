"""Checkpoints that are whole or absent, written behind the training, resumed by step number, and free of pickles.

Each rank writes its share into `step-N.tmp`; once all have, rank 0 adds `COMMIT.json` with the sha256 of each file and
renames the folder to `step-N`. A folder without a valid `COMMIT.json` is no checkpoint.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.files import publish, sha256_of, sync_folder
from latentdebias.process_groups import cpu_group, from_first
from latentdebias.training.checkpoints.run_state import RunState, SavedState, StateShare

COMMIT = "COMMIT.json"
FORMAT_VERSION = 2
"""Version 1 named no version, and recorded a schedule `linear` of other than 1000 timesteps in another meaning."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """Keep the last `keep`, and those of every `keep_every` steps (0: none beside)."""

    keep: int
    keep_every: int = 0


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
        self.keep, self.keep_every = policy.keep, policy.keep_every
        self.settings = settings
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        # The writers agree among themselves while the training uses the default group.
        self._group = cpu_group("checkpoints")

    def save(self, step: int) -> None:
        """Copy the state after `step` updates, and write and commit it in the background.

        Raises `UserError` where a weight is not finite, or where the write before this one failed.
        """
        self.finish()
        self._refuse_bad_weights(step)
        share = self.state.copy_share()
        self._writing = self._writer.submit(self._write, share, step)

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

    def _refuse_bad_weights(self, step: int) -> None:
        partitions = self.state.zero_state.partitions
        finite = torch.stack([partition.isfinite().all() for partition in partitions]).all()
        bad = (~finite).float().to(self.state.zero_state.device)
        torch.distributed.all_reduce(bad)
        if bad.item():
            raise UserError(
                f"At step {step} some weights are not finite, so no checkpoint is written; the last one is intact. "
                f"Lower optimizer.lr or training.grad_clip, or cap the weighting with max_weight, and rerun."
            )

    def _write(self, share: StateShare, step: int) -> None:
        final = self.directory / f"step-{step:08d}"
        temporary = final.with_suffix(".tmp")
        self._on_all_ranks(temporary, self._clear_leftovers)
        digests = self._on_all_ranks(temporary, lambda: self._write_share(share, temporary))
        sha256 = {_file_name(rank): digest for rank, digest in enumerate(digests)}
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
        path = folder / _file_name(distributed.rank())
        share.write(path)
        # safetensors leaves the file to its owner alone; the folder has what the umask allows.
        path.chmod(folder.stat().st_mode & 0o666)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return sha256_of(path)

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
        for path in [path for path in self._committed() if _step_of(path) <= step][: -self.keep]:
            if not self.keep_every or _step_of(path) % self.keep_every:
                shutil.rmtree(path)

    def _committed(self) -> list[Path]:
        folders = self.directory.glob("step-*[0-9]")
        return sorted((path for path in folders if (path / COMMIT).exists()), key=_step_of)

    def _newest(self) -> Path | None:
        """The newest checkpoint whose files all match their checksums, as rank 0 finds it."""
        # The others wait on the CPU: to hash large checkpoints may take longer than a collective may.
        found: Path | str | None = from_first(self._newest_whole() if distributed.rank() == 0 else None)
        if isinstance(found, str):
            raise UserError(found)
        return found

    def _newest_whole(self) -> Path | str | None:
        candidates = self._committed()
        for path in reversed(candidates):
            damage = _damage(path)
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


def _file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _damage(checkpoint: Path) -> str:
    """What is wrong with a committed checkpoint's files; empty if nothing is."""
    try:
        expected = json.loads((checkpoint / COMMIT).read_text())["sha256"]
    except (ValueError, KeyError) as error:
        return f"{COMMIT} cannot be read: {error}"
    for name, sha256 in expected.items():
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if sha256_of(path) != sha256:
            return f"{name} has changed since it was written"
    return ""

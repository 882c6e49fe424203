"""Checkpoints that are whole or absent, resumed by step number, and read without running pickled code.

DeepSpeed writes into `step-N.tmp`; once every rank has written, rank 0 adds `COMMIT.json` with the sha256 of each file
and renames the folder to `step-N`. A folder without a valid `COMMIT.json` is no checkpoint.
"""

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.files import publish, sync_folder
from latentdebias.training.ema import PartitionedEMA
from latentdebias.training.engine import Engine

COMMIT = "COMMIT.json"


class SafeCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's own file format, unpickled with tensors, plain data and three DeepSpeed classes only."""

    def load(self, path: str, map_location: Any = None) -> Any:
        try:
            with torch.serialization.safe_globals([ZeroStageEnum, LossScaler, fragment_address]):
                return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} holds more than weights and plain data, and was not opened: {str(error).splitlines()[0]} It "
                f"is no checkpoint of this project; delete its folder to resume from the one before."
            ) from None


class Checkpoints:
    """The `checkpoints/` folder of a run; every method is called on all ranks."""

    def __init__(
        self, directory: Path, engine: Engine, ema: PartitionedEMA, settings: Mapping[str, Any], keep: int
    ) -> None:
        self.directory, self.engine, self.ema, self.keep = directory, engine, ema, keep
        self.settings = json.loads(json.dumps(settings))
        engine.deepspeed.checkpoint_engine = SafeCheckpointEngine(engine.deepspeed._config)

    def save(self, step: int) -> None:
        """Write and commit the state after `step` updates; refused where a weight is not finite."""
        self._refuse_bad_weights(step)
        final = self.directory / f"step-{step:08d}"
        temporary = final.with_suffix(".tmp")
        if distributed.rank() == 0:
            for leftover in self.directory.glob("step-*.tmp"):
                shutil.rmtree(leftover)
        torch.distributed.barrier()
        self.engine.deepspeed.save_checkpoint(str(self.directory), tag=temporary.name, save_latest=False)
        if distributed.rank() == self._ema_owner():
            self.ema.save(self._ema_path(temporary))
        torch.distributed.barrier()
        if distributed.rank() == 0:
            self._commit(temporary, final, step)
            self._prune()
        torch.distributed.barrier()

    def resume(self) -> int:
        """Load the newest whole checkpoint and return its step, 0 where the run has none.

        Raises `UserError` where its settings differ, or where checkpoints exist and none is whole.
        """
        found = self._newest()
        if found is None:
            return 0
        commit = json.loads((found / COMMIT).read_text())
        self._refuse_other_settings(found, commit["settings"])
        path, _ = self.engine.deepspeed.load_checkpoint(
            str(self.directory), tag=found.name, load_lr_scheduler_states=False
        )
        assert path is not None, f"DeepSpeed found no checkpoint in {found}"
        self.ema.load(self._ema_path(found))
        return int(commit["step"])

    def _ema_owner(self) -> int:
        return distributed.rank() if self.engine.zero_stage else 0

    def _ema_path(self, folder: Path) -> Path:
        return folder / f"ema-rank-{self._ema_owner():05d}.safetensors"

    def _refuse_bad_weights(self, step: int) -> None:
        finite = torch.stack([p.isfinite().all() for p in self.engine.fp32_partitions()]).all()
        bad = (~finite).float().to(self.engine.device)
        torch.distributed.all_reduce(bad)
        if bad.item():
            raise UserError(
                f"At step {step} some weights are not finite, so no checkpoint is written; the last one is intact. "
                f"Lower optimizer.lr or training.grad_clip, or cap the weighting with max_weight, and rerun."
            )

    def _commit(self, temporary: Path, final: Path, step: int) -> None:
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        record = {
            "step": step,
            "settings": self.settings,
            "sha256": {str(path.relative_to(temporary)): _sha256_synced(path) for path in files},
        }
        publish(temporary / COMMIT, (json.dumps(record, indent=1) + "\n").encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync_folder(self.directory)

    def _prune(self) -> None:
        for path in self._committed()[: -self.keep]:
            shutil.rmtree(path)

    def _committed(self) -> list[Path]:
        folders = self.directory.glob("step-*")
        return sorted(path for path in folders if path.suffix != ".tmp" and (path / COMMIT).exists())

    def _newest(self) -> Path | None:
        """The newest checkpoint whose files all match their checksums, as rank 0 finds it."""
        answer: list[Path | str | None] = [None]
        if distributed.rank() == 0:
            answer[0] = self._newest_whole()
        torch.distributed.broadcast_object_list(answer, src=0, device=self.engine.device)
        if isinstance(answer[0], str):
            raise UserError(answer[0])
        return answer[0]

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

    def _refuse_other_settings(self, found: Path, saved: Mapping[str, Any]) -> None:
        differences = [
            f"{name}: {saved.get(name)!r} there, {self.settings.get(name)!r} now"
            for name in sorted({*saved, *self.settings})
            if saved.get(name) != self.settings.get(name)
        ]
        if differences:
            raise UserError(
                f"Checkpoint {found} was written under other settings ({'; '.join(differences)}); restore them to "
                f"resume it, or set another run_dir to start anew: --set run_dir=runs/NAME"
            )


def _sha256_synced(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


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
        if _sha256_synced(path) != sha256:
            return f"{name} has changed since it was written"
    return ""

"""A set of drawn images: made by any number of processes, resumed after a kill, the same bytes whoever draws them.

`sampling.json` says what is drawn and is written first. Block b, the images from b * batch_size on, is drawn by rank
b modulo world size, always as one batch, for kernels differ in the last bit between batch sizes. Whichever process
finds all blocks there writes the formats asked for and `grid.png`, and removes the blocks.
"""

import itertools
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from latentdebias.drawing.grid import rows_in_order, rows_of_classes
from latentdebias.drawing.image_sampler import ImageSampler, save_grid
from latentdebias.drawing.sample_blocks import SampleBlocks
from latentdebias.drawing.sample_formats import SAMPLE_FORMATS, SampleFormat
from latentdebias.drawing.sample_record import read_record
from latentdebias.errors import UserError
from latentdebias.files import publish, published, try_lock, write_errors
from latentdebias.sampling import DrawOptions

RECORD = "sampling.json"
BLOCKS = "blocks"
GRID = "grid.png"
TRAJECTORY = "trajectory.png"
DOES_NOT_DECIDE_THE_BYTES = {"model", "autoguidance"}
DAMAGED = "Choose another --out, or draw anew with --replace."


@dataclass(frozen=True)
class SampleSet:
    """The images of `labels` `(N,)`, image i a function of (seed, i), in the folder `out`.

    `record` goes to `sampling.json`: all that decides the bytes. `class_names` are for the grid.
    """

    out: Path
    labels: Tensor
    options: DrawOptions
    formats: tuple[SampleFormat, ...]
    record: dict[str, Any]
    class_names: Sequence[str] = ()

    @property
    def blocks(self) -> SampleBlocks:
        return SampleBlocks(self.out / BLOCKS, len(self.labels), self.options.batch_size)

    @property
    def finished(self) -> bool:
        return not self._missing_outputs()

    def begin(self) -> None:
        """Write the record; `UserError` where the folder holds another set, or files that are none."""
        refuse_foreign_files(self.out)
        path, record = self.out / RECORD, (json.dumps(self.record, indent=1) + "\n").encode()
        with write_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            publish(path, record)
        # Read back in any case: another rank may have begun at the same moment, with other options.
        _refuse_another(self.out, read_record(path, DAMAGED), json.loads(record))

    def draw(self, sampler: ImageSampler, rank: int = 0, world_size: int = 1) -> None:
        """Draw this rank's blocks, but for those that are there; they are written while the next one is drawn."""
        blocks, size = self.blocks, self.options.batch_size
        pending = [number for number in blocks.missing() if number % world_size == rank]
        # Asked after the blocks, which whoever finishes the set removes once it is finished.
        if self.finished:
            return
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1) as writer:
            for number, images in zip(pending, sampler.draw(self.labels, self.options, pending), strict=True):
                if writing:
                    writing.result()
                labels = self.labels[number * size : (number + 1) * size]
                writing = writer.submit(blocks.write, number, images, labels)
            if writing:
                writing.result()

    def finish(self, resolution: int) -> bool:
        """Write formats and grid once all blocks are there; False while some are not, or another process writes."""
        with write_errors(self.out / RECORD):
            lock = try_lock(self.out / RECORD)
            if lock is None:
                return False
            with lock:
                if not self.finished:
                    if self.blocks.missing():
                        return False
                    self._write_outputs(resolution)
                shutil.rmtree(self.out / BLOCKS, ignore_errors=True)
        return True

    def _missing_outputs(self) -> list[str]:
        names = [*(each.output for each in self.formats), GRID]
        return [name for name in names if not (self.out / name).exists()]

    def _write_outputs(self, resolution: int) -> None:
        missing, count = self._missing_outputs(), len(self.labels)
        for each in self.formats:
            if each.output in missing:
                images = tqdm(self.blocks.images(), f"write {each.output}", count, unit="image")
                each.write(self.out / each.output, images, self.labels.numpy(), resolution)
        self._write_grid(resolution)

    def _write_grid(self, resolution: int) -> None:
        rows = rows_of_classes(self.labels) if self.class_names else rows_in_order(len(self.labels))
        images = self.blocks.pick(itertools.chain.from_iterable(rows))
        columns = max(map(len, rows))
        tiles = torch.full((len(rows), columns, resolution, resolution, 3), 255, dtype=torch.uint8)
        for row, indices in enumerate(rows):
            for column, index in enumerate(indices):
                tiles[row, column] = torch.from_numpy(images[index].pixels().copy())
        names = [self.class_names[int(self.labels[row[0]])] for row in rows] if self.class_names else ()
        with published(self.out / GRID) as file:
            save_grid(tiles.flatten(0, 1).permute(0, 3, 1, 2), columns, file, names)


def outputs() -> list[str]:
    """The names of everything that a set may consist of, its record last."""
    return [*(SAMPLE_FORMATS.build(name).output for name in SAMPLE_FORMATS.names()), GRID, TRAJECTORY, BLOCKS, RECORD]


def refuse_foreign_files(out: Path) -> None:
    """Raise `UserError` where `out` holds files under a set's names and no record of one."""
    foreign = [name for name in outputs() if (out / name).exists()]
    if foreign and RECORD not in foreign:
        raise UserError(f"{out / foreign[0]} exists and was not written by this command; choose another --out.")


def remove_sample_set(out: Path) -> None:
    """Remove a set, finished or not, and nothing else from its folder; `UserError` for files that are none."""
    refuse_foreign_files(out)
    with write_errors(out):
        for path in (out / name for name in outputs()):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _refuse_another(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    fields = [name for name in {**old, **new} if name not in DOES_NOT_DECIDE_THE_BYTES]
    if differing := [name for name in fields if old.get(name) != new.get(name)]:
        changes = "; ".join(
            f"{name} was {_short(old.get(name))} and is now {_short(new.get(name))}" for name in differing
        )
        raise UserError(
            f"{out} holds samples drawn with other settings, and one folder never mixes two: {changes}. Pass another "
            f"--out, or the old settings to go on, or --replace to draw anew."
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."

"""One run at a time in a run directory: a second one would write over the first one's checkpoints."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.files import try_lock
from latentdebias.process_groups import from_first

LOCK = "lock"


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` for all ranks; `UserError` on every rank where another run holds it.

    The lock goes with the process that holds it, so a killed run leaves none behind.
    """
    refusal = ""
    file: TextIO | None = None
    if distributed.rank() == 0:
        try:
            file = try_lock(run_dir / LOCK)
            if file is None:
                holder = (run_dir / LOCK).read_text().strip() or "another run"
                refusal = (
                    f"{run_dir} is in use by {holder}, perhaps left over from a launcher that was stopped; end that "
                    f"one, or set another run_dir: --set run_dir=runs/NAME"
                )
            else:
                file.truncate(0)
                print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        except OSError as error:
            refusal = f"run_dir {run_dir} takes no files ({error.strerror}); set another one: --set run_dir=runs/NAME"
    refusal = from_first(refusal)
    try:
        if refusal:
            raise UserError(refusal)
        yield
    finally:
        if file is not None:
            file.close()

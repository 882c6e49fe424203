import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launching import ROOT, Launched

from latentdebias.distributed import environment_without_launcher


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Launched]]:
    """Start `tools/train.py` under a launcher's command line; what a failed test leaves of it is killed at the end."""
    started: list[Launched] = []

    def start(launcher: list[str], run_dir: Path, *overrides: str) -> Launched:
        sets = [part for change in (f"run_dir={run_dir}", *overrides) for part in ("--set", change)]
        command = [*launcher, "tools/train.py", "--config", "digits_debias.yaml", *sets]
        err = tmp_path_factory.mktemp("launch") / "err"
        with err.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment_without_launcher(), stdout=file, stderr=file)
        started.append(Launched(run_dir, process, err))
        return started[-1]

    yield start
    for run in started:
        run.kill()

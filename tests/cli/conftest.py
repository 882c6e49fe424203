"""The commands as a user runs them: in a process of their own, or in this one where many bad inputs are tried."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from latentdebias.cli import start
from latentdebias.config import load_config
from latentdebias.distributed import environment_without_launcher
from latentdebias.prepare import prepare
from latentdebias.run import Run

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run `latentdebias NAME` with arguments in this process."""

    def run(name: str, *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["latentdebias", name, *map(str, arguments)])
        code = 0
        try:
            start()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def launch():
    """Run a command line from the repository's root and wait for it."""

    def run(*command: object) -> Result:
        alone = environment_without_launcher()
        done = subprocess.run([*map(str, command)], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=200)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def model_dir(digit_shards, process_group, tmp_path_factory) -> Path:
    """A model directory of a DiT that trained for seconds: it draws blobs, not digits."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    settings = {"run_dir": run_dir, "data.shards": digit_shards, "model.width": 32, "model.depth": 2, "model.heads": 2}
    steps = {"training.steps": 60, "training.batch_size": 32, "training.sample_every": 0}
    config = load_config("digits_debias.yaml", [f"{key}={value}" for key, value in {**settings, **steps}.items()])
    Run(prepare(config)).train()
    return run_dir / "model"

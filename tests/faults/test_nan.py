import json
import math
import subprocess
from pathlib import Path

import pytest
from launching import ROOT, rows, torchrun

from latentdebias.distributed import environment_without_launcher


@pytest.mark.launcher
def test_nan_on_one_rank_is_skipped_by_all_at_every_stage(small_run, tmp_path):
    command = [*torchrun(), str(Path(__file__).with_name("nan_on_one_rank.py")), str(tmp_path), *small_run]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_without_launcher(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    curves = []
    for stage in range(4):
        logged = [json.loads(row) for row in rows(tmp_path / f"stage{stage}")]
        assert [row["skipped_updates"] for row in logged] == [0, 1, 1, 1]
        curves.append([row["loss"] for row in logged])
        assert all(map(math.isfinite, curves[-1]))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=2e-4)

"""What a run left in its directory, and overrides that tests share."""

import json

STAGES = [0, 1, 2, 3]


def log_of(run):
    return [json.loads(line) for line in (run.run_dir / "log.jsonl").read_text().splitlines()]


def losses_of(run):
    return {row["step"]: row["loss"] for row in log_of(run)}


def checkpoints_of(run):
    return sorted(path.name for path in run.run_dir.glob("checkpoints/step-*"))


def stage(number):
    return f"deepspeed.zero_optimization.stage={number}"


def in_folder(tmp_path, name):
    return f"run_dir={tmp_path / name}"

"""What a run left in its directory, and overrides that tests share."""

import json

import yaml

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


def write_run(folder, records, weighting="debias"):
    """A run directory as far as analyses read it: the weighting in its config, and its log."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"diffusion": {"weighting": weighting}}))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder

"""Committed checkpoints on disk: a folder a step, with the files of all ranks and their checksums in `COMMIT.json`."""

from pathlib import Path

from latentdebias.files import parse_json, sha256_of

COMMIT = "COMMIT.json"
KINDS = {"sha256": dict, "step": int, "settings": dict}
"""What a commit holds at least."""


def file_name(rank: int) -> str:
    """The name of the file that `rank` writes."""
    return f"rank-{rank:05d}.safetensors"


def step_of(checkpoint: Path) -> int:
    """The step of the checkpoint in a folder."""
    return int(checkpoint.name.removeprefix("step-"))


def committed_in(directory: Path) -> list[Path]:
    """The folders of committed checkpoints, oldest first; their files may have been damaged since."""
    folders = directory.glob("step-*[0-9]")
    return sorted((path for path in folders if (path / COMMIT).exists()), key=step_of)


def damage_of(checkpoint: Path) -> str:
    """What is wrong with a committed checkpoint's files; empty if nothing is."""
    try:
        commit = parse_json((checkpoint / COMMIT).read_text())
        for key, kind in KINDS.items():
            if not isinstance(commit.get(key), kind):
                raise ValueError(f"its {key} is {commit.get(key)!r}")
    except (OSError, ValueError) as error:
        return f"{COMMIT} cannot be read: {error}"
    for name, sha256 in commit["sha256"].items():
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if sha256_of(path) != sha256:
            return f"{name} has changed since it was written"
    return ""

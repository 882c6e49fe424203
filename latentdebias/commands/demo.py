"""`latentdebias demo`: the main job on real images, offline: encode, train, sample, evaluate."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from latentdebias import digits
from latentdebias.autoencoders import load_autoencoder
from latentdebias.errors import UserError, command
from latentdebias.evaluation.evaluator import evaluate, extract
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.metrics import FID, KID, ClassAccuracy, Metric
from latentdebias.evaluation.sources.image_files import FolderImages
from latentdebias.evaluation.sources.shards import ShardImages
from latentdebias.evaluation.sources.source import ImageSource
from latentdebias.shards.reader import LatentShards

# Else DeepSpeed warns twice that it found no accelerator.
ENVIRONMENT = os.environ | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
NUM_SAMPLES = 898
GUIDANCE = ["--guidance", "1.5", "--steps", "25", "--batch-size", "100"]
METRICS: list[Metric] = [FID(), KID(subsets=20, subset_size=500), ClassAccuracy()]
COLUMNS = {"fid": "FID", "kid": "KID", "class_accuracy": "class accuracy"}


def demo(out: Path, config: str) -> None:
    """Do the whole job in folder `out`, each step by the command that does it, and print scores and times."""
    run_dir = out / Path(config).stem
    seconds: dict[str, float] = {}
    with timed("write", seconds):
        digits.write_images(out / "images")
    with timed("encode", seconds):
        run("encode", "--images", out / "images", "--out", out / "shards", "--vae", "digits", "--resolution", 32)
    with timed("train", seconds):
        overrides = [f"run_dir={run_dir}", f"data.shards={out / 'shards'}"]
        settings = [part for override in overrides for part in ("--set", override)]
        launch("train", "--config", config, *settings)
    model = ["--model", run_dir / "model"]
    with timed("sample", seconds):
        run("sample", *model, "--per-class", 10, *GUIDANCE, "--seed", 1, "--replace", "--out", out / "grid")
        run("sample", *model, "--num", NUM_SAMPLES, *GUIDANCE, "--replace", "--out", out / "samples")
    with timed("evaluate", seconds):
        scores = score(out)
    report(scores, seconds, out / "grid" / "grid.png")


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def run(name: str, *arguments: object) -> None:
    """Show a command as it can be typed, and run it in a process of its own."""
    execute(command(name), [sys.executable, "-m", f"latentdebias.cli.{name}"], *arguments)


def launch(name: str, *arguments: object) -> None:
    """Show a command under the deepspeed launcher, and run it so."""
    options = ["--num_gpus", "1", "--log_level", "error", "--module", f"latentdebias.cli.{name}"]
    shown = shlex.join(["deepspeed", *options])
    # The launcher by its module: its script need not be beside this interpreter.
    execute(shown, [sys.executable, "-m", "deepspeed.launcher.runner", *options], *arguments)


def execute(shown: str, start: list[str], *arguments: object) -> None:
    """Run the words `start` with the arguments; `UserError` where that fails."""
    words = [str(argument) for argument in arguments]
    tqdm.write(f"\n$ {shown} {shlex.join(words)}", file=sys.stderr)
    if code := subprocess.run([*start, *words], check=False, env=ENVIRONMENT).returncode:
        raise UserError(f"That command ended with exit code {code}; what it says is above.")


def score(out: Path) -> dict[str, dict[str, float]]:
    """Samples, reconstructions and real digits, as many of each, against the same other half of the real digits."""
    extractor = EXTRACTORS.build("digits").load()
    sources: dict[str, ImageSource] = {
        "real": FolderImages(str(out / "images"), digits.RESOLUTION),
        "reconstructions": ShardImages(LatentShards(out / "shards"), load_autoencoder("digits")),
        "samples": FolderImages(str(out / "samples" / "images"), digits.RESOLUTION),
    }
    sets = {
        name: extract(source, extractor, source.count, name, source.num_classes) for name, source in sources.items()
    }
    # Every second image: all classes are in either half, though they stand in order.
    reference = sets["real"].part(slice(0, None, 2))
    compared = {
        "guided samples": sets["samples"],
        "reconstructions": sets["reconstructions"].part(slice(1, None, 2)),
        "real": sets["real"].part(slice(1, None, 2)),
    }
    return {name: evaluate(images, reference, METRICS) for name, images in compared.items()}


def report(scores: dict[str, dict[str, float]], seconds: dict[str, float], picture: Path) -> None:
    print(f"\n{'against 899 real digits':32}" + "".join(f"{title:>16}" for title in COLUMNS.values()))
    for name, row in scores.items():
        print(f"{name:32}" + "".join(f"{row[key]:16.3f}" for key in COLUMNS))
    print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()), end="")
    print(f", in all {sum(seconds.values()):.0f}\npicture: {picture}")

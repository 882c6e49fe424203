"""`latentdebias demo`: encode, train, sample and evaluate the handwritten digits, offline."""

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
from latentdebias.commands.terminal import print_next, table
from latentdebias.errors import UserError, command
from latentdebias.evaluation.evaluator import evaluate, extract
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.metrics import FID, KID, ClassAccuracy, Metric
from latentdebias.evaluation.sources.image_files import FolderImages
from latentdebias.evaluation.sources.shards import ShardImages
from latentdebias.evaluation.sources.source import ImageSource
from latentdebias.shards.reader import LatentShards

# Without DS_ACCELERATOR, DeepSpeed warns twice on a CPU that it found no accelerator.
ENVIRONMENT = os.environ | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
NUM_SAMPLES = 898
GUIDANCE = ["--guidance", "1.5", "--steps", "25", "--batch-size", "100"]
METRICS: list[Metric] = [FID(), KID(subsets=20, subset_size=500), ClassAccuracy()]
COLUMNS = {"fid": "FID", "kid": "KID", "class_accuracy": "class accuracy"}


def demo(out: Path, config: str) -> None:
    """Run each step of the demo in the folder `out` by its own command, and print the scores and times."""
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
    print_next("play", *model)


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def run(name: str, *arguments: object) -> None:
    """Print the command `name` as a user would type it, and run it in a process of its own."""
    execute(command(name), [sys.executable, "-m", f"latentdebias.cli.{name}"], *arguments)


def launch(name: str, *arguments: object) -> None:
    """Print the command `name` as a user would type it under the deepspeed launcher, and run it there."""
    options = ["--num_gpus", "1", "--log_level", "error", "--module", f"latentdebias.cli.{name}"]
    shown = shlex.join(["deepspeed", *options])
    # The launcher by its module: its script need not be beside this interpreter.
    execute(shown, [sys.executable, "-m", "deepspeed.launcher.runner", *options], *arguments)


def execute(shown: str, start: list[str], *arguments: object) -> None:
    """Print `shown` with the arguments, and run `start` with them; `UserError` where the exit code is not 0."""
    words = [str(argument) for argument in arguments]
    tqdm.write(f"\n$ {shown} {shlex.join(words)}", file=sys.stderr)
    if code := subprocess.run([*start, *words], check=False, env=ENVIRONMENT).returncode:
        raise UserError(f"That command ended with exit code {code}; what it says is above.")


def score(out: Path) -> dict[str, dict[str, float]]:
    """The scores of samples, reconstructions and real digits, each against the same 899 real digits.

    The reconstructions and real digits are those of the other 898, as many as there are samples.
    """
    extractor = EXTRACTORS.build("digits").load()
    sources: dict[str, ImageSource] = {
        "real": FolderImages(str(out / "images"), digits.RESOLUTION),
        "reconstructions": ShardImages(LatentShards(out / "shards"), load_autoencoder("digits")),
        "samples": FolderImages(str(out / "samples" / "images"), digits.RESOLUTION),
    }
    sets = {
        name: extract(source, extractor, source.count, name, source.num_classes) for name, source in sources.items()
    }
    # The images are ordered by class, so every second one is taken: both halves hold all classes.
    reference = sets["real"].part(slice(0, None, 2))
    compared = {
        "guided samples": sets["samples"],
        "reconstructions": sets["reconstructions"].part(slice(1, None, 2)),
        "real": sets["real"].part(slice(1, None, 2)),
    }
    return {name: evaluate(images, reference, METRICS) for name, images in compared.items()}


def report(scores: dict[str, dict[str, float]], seconds: dict[str, float], picture: Path) -> None:
    rows = [["against 899 real digits", *COLUMNS.values()]]
    rows += [[name, *(f"{row[key]:.3f}" for key in COLUMNS)] for name, row in scores.items()]
    print(f"\n{table(rows)}")
    print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()), end="")
    print(f", in all {sum(seconds.values()):.0f}\npicture: {picture}")

"""The main job on real images, offline: encode, train, sample, evaluate. tools/demo.py [--out demo] [--config NAME]"""

import argparse
import os
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
from latentdebias.errors import UserError, run_tool
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument("--config", default="digits_debias.yaml", metavar="NAME_OR_PATH")
    arguments = parser.parse_args()
    out, run_dir = arguments.out, arguments.out / Path(arguments.config).stem
    seconds: dict[str, float] = {}
    with timed("write", seconds):
        digits.write_images(out / "images")
    with timed("encode", seconds):
        python("encode", "--images", out / "images", "--out", out / "shards", "--vae", "digits", "--resolution", 32)
    with timed("train", seconds):
        overrides = [f"run_dir={run_dir}", f"data.shards={out / 'shards'}"]
        launcher = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", 1, "--log_level", "error"]
        settings = [part for override in overrides for part in ("--set", override)]
        run(*launcher, "--module", "latentdebias.cli.train", "--config", arguments.config, *settings)
    model = ["--model", run_dir / "model"]
    with timed("sample", seconds):
        python("sample", *model, "--per-class", 10, *GUIDANCE, "--seed", 1, "--replace", "--out", out / "grid")
        python("sample", *model, "--num", NUM_SAMPLES, *GUIDANCE, "--replace", "--out", out / "samples")
    with timed("evaluate", seconds):
        scores = score(out)
    report(scores, seconds, out / "grid" / "grid.png")


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def python(command: str, *arguments: object) -> None:
    run(sys.executable, "-m", f"latentdebias.cli.{command}", *arguments)


def run(*command: object) -> None:
    """Show a command and run it."""
    words = [str(word) for word in command]
    tqdm.write("\n$ " + " ".join(words), file=sys.stderr)
    if code := subprocess.run(words, check=False, env=ENVIRONMENT).returncode:
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


if __name__ == "__main__":
    run_tool(main)

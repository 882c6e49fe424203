"""Trains the digits on two ranks while faults strike at random; at the end the losses are those of an undisturbed run.

    make soak SOAK_MINUTES=60 SOAK_SEED=0

The run directory is a small tmpfs, mounted in a namespace of this script's own, so that its disk can be filled. The
faults last for the given minutes, and the undisturbed run then trains as many steps. Ends with code 1 at the first
thing that is not as it should be.
"""

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from launching import ROOT, Launched, checkpoints, deepspeed, is_alive, losses, torchrun

from latentdebias.autoencoders import load_autoencoder
from latentdebias.digits import write_images
from latentdebias.distributed import environment_without_launcher
from latentdebias.images.find import find_images
from latentdebias.shards.jobs.encode import EncodeJob, encode_images

DISK_BYTES = 256 << 20
SECONDS_TO_START = 900
SECONDS_TO_END = 300
SETTINGS = {
    "model.width": 64,
    "training.batch_size": 32,
    "training.log_every": 1,
    "training.checkpoint_every": 40,
    "training.keep_checkpoints": 3,
    "training.sample_every": 0,
    "deepspeed.zero_optimization.stage": 2,
}
CLONE_NEWUSER, CLONE_NEWNS, MS_REC_PRIVATE, MNT_DETACH = 0x10000000, 0x00020000, 0x44000, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            Soak(Path(folder), options.seed).run(options.minutes)
        finally:
            unmount(Path(folder) / "disk")


class Soak:
    """One run that is hurt, in `folder`/disk/run, and one that is left alone, in `folder`/alone."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.disk, self.seed = folder, folder / "disk", seed
        self.run_dir = self.disk / "run"
        self.dice = random.Random(seed)
        self.survived: Counter[str] = Counter()
        self.steps_trained = 0
        self.disk.mkdir()
        self.faults: list[Callable[[Launched], None]] = [self.kill, self.stop, self.freeze, self.damage]
        if reason := mount_tmpfs(self.disk):
            print(f"no disk is filled: a tmpfs cannot be mounted here ({reason})", flush=True)
        else:
            self.faults.append(self.fill)
        self.shards = folder / "shards"
        write_images(folder / "images")
        job = EncodeJob(resolution=32, flips=True, samples_per_shard=512, workers=0)
        encode_images(find_images(str(folder / "images")), load_autoencoder("digits"), self.shards, job)

    def run(self, minutes: float) -> None:
        begun = time.monotonic()
        while time.monotonic() < begun + 60 * minutes:
            self.one_fault(begun)
        steps = last_step(self.run_dir) + 20
        self.finish(self.run_dir, steps)
        print(f"the undisturbed run: {steps} steps", flush=True)
        self.finish(self.folder / "alone", steps)
        hurt, alone = losses(self.run_dir), losses(self.folder / "alone")
        assert len(alone) == steps
        assert hurt == alone, f"the losses differ from step {next(s for s in alone if hurt.get(s) != alone[s])} on"
        models = [(run / "model" / "model.safetensors").read_bytes() for run in (self.run_dir, self.folder / "alone")]
        assert models[0] == models[1], "the models differ"
        faults = ", ".join(f"{count} x {name}" for name, count in sorted(self.survived.items()))
        print(
            f"survived {sum(self.survived.values())} faults in {minutes:g} minutes (seed {self.seed}): {faults}; "
            f"{steps} steps, of which {self.steps_trained - steps} were trained twice; all losses and the model's "
            f"bytes are those of the undisturbed run"
        )

    def one_fault(self, begun: float) -> None:
        """Resume the run, let it train for some seconds, and hurt it."""
        newest = max(checkpoints(self.run_dir), default=0)
        run = self.start(self.run_dir, 10**6)
        try:
            self.reach(run, newest + 1)
            time.sleep(self.dice.uniform(0, 10))
            run.note_family()
            fault = self.dice.choice(self.faults)
            fault(run)
        finally:
            run.kill()
        self.survived[fault.__name__] += 1
        self.steps_trained += max(0, last_step(self.run_dir) - newest)
        print(f"{time.monotonic() - begun:6.0f} s  step {last_step(self.run_dir):6d}  {fault.__name__}", flush=True)

    def finish(self, run_dir: Path, steps: int) -> None:
        newest = max(checkpoints(run_dir), default=0)
        run = self.start(run_dir, steps)
        try:
            code = run.process.wait()
        finally:
            run.kill()
        assert code == 0, run.err.read_text()[-3000:]
        if run_dir == self.run_dir:
            self.steps_trained += steps - newest

    def start(self, run_dir: Path, steps: int) -> Launched:
        settings = {**SETTINGS, "run_dir": run_dir, "data.shards": self.shards, "training.steps": steps}
        settings["data.workers"] = self.dice.choice([0, 1])
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [*self.dice.choice([deepspeed, torchrun])(), "tools/train.py", "--config", "digits_debias.yaml"]
        err = self.folder / "err"
        with err.open("w") as file:
            environment = environment_without_launcher()
            process = subprocess.Popen([*command, *sets], cwd=ROOT, env=environment, stdout=file, stderr=file)
        return Launched(run_dir, process, err)

    def reach(self, run: Launched, step: int) -> None:
        """Wait until this start of the run has logged `step`; what an earlier start logged beyond it is cut off."""
        log, deadline = self.run_dir / "log.jsonl", time.monotonic() + SECONDS_TO_START
        before = log.stat().st_mtime_ns if log.exists() else 0
        while not log.exists() or log.stat().st_mtime_ns == before or last_step(self.run_dir) < step:
            assert run.process.poll() is None, run.err.read_text()[-3000:]
            assert time.monotonic() < deadline, f"step {step} was never reached: {run.err.read_text()[-3000:]}"
            time.sleep(0.1)
        run.note_family()

    def kill(self, run: Launched) -> None:
        """Kill -9: a rank, the launcher, or all at once."""
        ranks = [run.rank(0), run.rank(1)]
        for process in self.dice.choice([ranks[:1], ranks[1:], [run.launcher], [*run.family]]):
            process.kill()
        assert run.end(SECONDS_TO_END) != 0

    def stop(self, run: Launched) -> None:
        """A signal that asks for a stop: nothing that was trained is lost."""
        name = self.dice.choice(["SIGTERM", "SIGUSR1", "SIGINT"])
        process = self.dice.choice([run.rank(0), run.rank(1)]) if name != "SIGTERM" else run.launcher
        process.send_signal(getattr(signal, name))
        assert run.end(SECONDS_TO_END) != 0
        assert max(checkpoints(self.run_dir)) == last_step(self.run_dir), run.err.read_text()[-3000:]

    def freeze(self, run: Launched) -> None:
        """A rank stands still for some seconds, and goes on; then all are killed."""
        rank, step = run.rank(self.dice.randrange(2)), last_step(self.run_dir)
        rank.suspend()
        time.sleep(self.dice.uniform(0.1, 8))
        rank.resume()
        deadline = time.monotonic() + SECONDS_TO_END
        while last_step(self.run_dir) < step + 3:
            assert time.monotonic() < deadline
            assert is_alive(rank), run.err.read_text()[-3000:]
            time.sleep(0.1)
        run.kill()

    def damage(self, run: Launched) -> None:
        """All are killed, and the newest of several checkpoints loses a byte, its end or a file."""
        run.kill()
        written = [path.parent for path in sorted(self.run_dir.glob("checkpoints/step-*/COMMIT.json"))]
        if len(written) < 2:
            return
        path = self.dice.choice(sorted(written[-1].iterdir()))
        data = bytearray(path.read_bytes())
        at = self.dice.randrange(len(data))
        data[at] ^= 1 << self.dice.randrange(8)
        self.dice.choice([lambda: path.write_bytes(data), lambda: os.truncate(path, at), path.unlink])()

    def fill(self, run: Launched) -> None:
        """The disk is full but for some bytes, until the run has ended."""
        written = checkpoints(self.run_dir)
        with (self.disk / "filler").open("wb") as filler:
            left, filled = self.dice.randrange(2 << 20), False
            while not filled:
                with contextlib.suppress(OSError):  # the run has written meanwhile
                    os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(self.disk).free - left)
                    filled = True
        assert run.end(SECONDS_TO_END) != 0
        assert set(written[-1:]) <= set(checkpoints(self.run_dir)), "the last checkpoint is gone"
        (self.disk / "filler").unlink()


def last_step(run_dir: Path) -> int:
    """The last step in the log, 0 where none is."""
    log = run_dir / "log.jsonl"
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0


def mount_tmpfs(path: Path) -> str:
    """Mount a tmpfs of `DISK_BYTES` at `path` for this process and its children; returns why not, or ""."""
    libc, root = ctypes.CDLL(None, use_errno=True), os.geteuid() == 0
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS if root else CLONE_NEWNS | CLONE_NEWUSER):
        return os.strerror(ctypes.get_errno())
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    libc.mount(None, b"/", None, MS_REC_PRIVATE, None)
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={DISK_BYTES}".encode()):
        return os.strerror(ctypes.get_errno())
    return ""


def unmount(path: Path) -> None:
    """Unmount what `mount_tmpfs` has mounted, if it has."""
    ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH)


if __name__ == "__main__":
    sys.exit(main())

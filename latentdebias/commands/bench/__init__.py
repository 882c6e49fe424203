"""`latentdebias bench`: the speed of the project's parts on this machine, each beside code written without them."""

import argparse
from collections.abc import Callable

from latentdebias.commands.bench.data import bench_data
from latentdebias.commands.bench.encode import bench_encode
from latentdebias.commands.bench.gpu_suite import bench_gpu_suite
from latentdebias.commands.bench.growth import bench_growth
from latentdebias.commands.bench.memory import bench_memory
from latentdebias.commands.bench.sample import bench_sample
from latentdebias.commands.bench.start import bench_start
from latentdebias.commands.bench.train import bench_train

BENCHES: dict[str, Callable[[argparse.Namespace], None]] = {
    "data": bench_data,
    "encode": bench_encode,
    "train": bench_train,
    "sample": bench_sample,
    "memory": bench_memory,
    "start": bench_start,
    "growth": bench_growth,
    "gpu-suite": bench_gpu_suite,
}

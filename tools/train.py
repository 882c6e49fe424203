#!/usr/bin/env python
"""Train a model: deepspeed tools/train.py --config imagenet256_debias.yaml [--set key.sub=value ...]"""

import argparse

from latentdebias.build import Run, prepare
from latentdebias.config import load_config
from latentdebias.errors import run_tool
from latentdebias.training.engine import start_distributed, stop_distributed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, metavar="NAME_OR_PATH", help="a path, or a name found in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", dest="overrides")
    parser.add_argument("--export", action="store_true", help="only write the model directory of the newest checkpoint")
    parser.add_argument("--local_rank", type=int, help="given by the deepspeed launcher; not needed")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    shards = prepare(config)
    start_distributed()
    run = Run(config, shards)
    if arguments.export:
        run.export()
    else:
        run.train()
    stop_distributed()


if __name__ == "__main__":
    run_tool(main)

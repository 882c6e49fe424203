"""Train a model: deepspeed tools/train.py --config imagenet256_debias.yaml [--set key.sub=value ...]"""

import argparse

from latentdebias.config import load_config
from latentdebias.errors import ExitCode, run_tool
from latentdebias.prepare import prepare
from latentdebias.run import Run, check_exportable
from latentdebias.training.engine import start_distributed, stop_distributed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, metavar="NAME_OR_PATH", help="a path, or a name found in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", dest="overrides")
    parser.add_argument("--export", action="store_true", help="only write the model directory of the newest checkpoint")
    ema = "with --export, the average to write, such as 0.9999, std0.050 or none; default: the first of the config"
    parser.add_argument("--ema", metavar="NAME", help=ema)
    parser.add_argument("--local_rank", type=int, help="given by the deepspeed launcher; not needed")
    arguments = parser.parse_args()
    if arguments.ema and not arguments.export:
        parser.error("--ema says what --export writes; give both")
    config = load_config(arguments.config, arguments.overrides)
    average = config.ema.choose(arguments.ema)
    if arguments.export:
        check_exportable(config)
    prepared = prepare(config)
    start_distributed()
    run = Run(prepared)
    stopped = False
    if arguments.export:
        run.export(average)
    else:
        stopped = bool(run.train().stopped_by)
    stop_distributed()
    if stopped:
        raise SystemExit(ExitCode.STOPPED)


if __name__ == "__main__":
    run_tool(main)

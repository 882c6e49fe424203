"""`latentdebias train`: train a model, or write the model directory of its newest checkpoint."""

import argparse
from collections.abc import Sequence

from latentdebias.errors import ExitCode, command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias train`."""
    parser = argparse.ArgumentParser(
        prog=command("train"),
        description="Train a model; the same command again resumes it.",
        epilog="On several GPUs: deepspeed --module latentdebias.cli.train --config imagenet256_debias.yaml, or "
        "torchrun --nproc_per_node gpu -m latentdebias.cli.train --config imagenet256_debias.yaml",
    )
    add_config_arguments(parser)
    parser.add_argument("--export", action="store_true", help="only write the model directory of the newest checkpoint")
    ema = "with --export, the average to write, such as 0.9999, std0.050 or none; default: the first of the config"
    parser.add_argument("--ema", metavar="NAME", help=ema)
    parser.add_argument("--local_rank", type=int, help="given by the deepspeed launcher; not needed")
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--set`, which together give the config of a run."""
    config = "a path, or the name of a config that is shipped, such as digits_debias.yaml"
    parser.add_argument("--config", required=True, metavar="NAME_OR_PATH", help=config)
    overrides = "a key of the config to change, such as training.steps=1000; may be given often"
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", dest="overrides", help=overrides)


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    options = parser()
    arguments = options.parse_args(words)
    if arguments.ema and not arguments.export:
        options.error("--ema says what --export writes; give both")
    from latentdebias import distributed
    from latentdebias.commands.terminal import print_next
    from latentdebias.config import load_config
    from latentdebias.prepare import prepare
    from latentdebias.run import Run, check_exportable
    from latentdebias.training.engine import start_distributed, stop_distributed

    config = load_config(arguments.config, arguments.overrides)
    average = config.ema.choose(arguments.ema)
    if arguments.export:
        check_exportable(config)
    prepared = prepare(config)
    start_distributed(config.training.hang_timeout)
    run = Run(prepared)
    stopped = False
    if arguments.export:
        run.export(average)
    else:
        stopped = bool(run.train().stopped_by)
    if not stopped and distributed.rank() == 0:
        print_next("sample", "--model", run.run_dir / "model", "--num", 16, "--out", "samples")
    stop_distributed()
    if stopped:
        raise SystemExit(ExitCode.STOPPED)


if __name__ == "__main__":
    run_tool(main)

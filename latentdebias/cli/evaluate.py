"""`latentdebias evaluate`: score a model or images that exist, and compare two evaluations."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from latentdebias.cli import listing
from latentdebias.cli.argument_types import names, not_negative, positive
from latentdebias.cli.sampling_arguments import add_sampling_arguments
from latentdebias.errors import UserError, command, legal_choices, run_tool

REFERENCE = "images, archives, latent shards, or an .npz of images or of ADM's moments"


def main(words: Sequence[str]) -> None:
    """Score, or run the subcommand that the first word names."""
    if words and not words[0].startswith("-"):
        if words[0] not in SUBCOMMANDS:
            raise UserError(f"Unknown command {words[0]!r}. {legal_choices(words[0], SUBCOMMANDS)}")
        SUBCOMMANDS[words[0]](words[1:])
        return
    arguments = parser().parse_args(words)
    from latentdebias.commands.evaluate import evaluate

    evaluate(arguments)


def parser() -> argparse.ArgumentParser:
    """The options of scoring."""
    parser = argparse.ArgumentParser(
        prog=command("evaluate"),
        description="Score a model, or images that exist. Under torchrun the processes share the work, and the scores "
        "are those of one.",
        epilog=listing(COMMANDS)
        + "\n\nOn several GPUs: torchrun --nproc_per_node 8 -m -- latentdebias.cli.evaluate --model DIR ..."
        "\n(without `--`, torchrun takes --num for an option of its own)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--model", type=Path, metavar="DIR", help="a model directory, whose samples are drawn here")
    found = "images that exist: a folder, .tar or .zip archives, an .npz, or latent shards"
    samples.add_argument("--samples", type=Path, metavar="PATH", help=found)
    parser.add_argument("--reference", required=True, metavar="PATH", help=REFERENCE)
    num = "samples, evenly over the classes; default all, or as many as references and at most 50,000 of a model"
    parser.add_argument("--num", type=positive, metavar="N", help=num)
    metrics = (
        "some of class_accuracy, colour_shift, density_coverage, fid, inception_score, kid, precision_recall, sfid; "
        "default: all that apply"
    )
    parser.add_argument("--metrics", type=names, metavar="fid,kid", help=metrics)
    extractors = "one of digits, dinov2, inception, pixels; default inception, or digits for a model of the demo"
    parser.add_argument("--extractor", metavar="NAME", help=extractors)
    parser.add_argument("--inception-weights", metavar="PATH", help="default: torch's hub cache")
    parser.add_argument("--dinov2-weights", metavar="PATH", help="default: torch's hub cache")
    resamples = "halves of the samples that make the 95%% intervals; 0: none; default 200"
    parser.add_argument("--resamples", type=not_negative, metavar="N", help=resamples)
    _add_cache_argument(parser)
    line = "print the scores and the protocol on one line, as where the output is no terminal"
    parser.add_argument("--line", action="store_true", help=line)
    out = "default: evaluation.json in the folder of samples, MODEL.evaluation.json beside a model or file"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    add_sampling_arguments(parser)
    return parser


def colour_shift_parser() -> argparse.ArgumentParser:
    """The options of `latentdebias evaluate colour-shift`."""
    parser = argparse.ArgumentParser(
        prog=f"{command('evaluate')} colour-shift",
        description="How far the samples' colours and low frequencies are from the data's, by number of steps.",
    )
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--reference", required=True, metavar="PATH", help="images, archives, an .npz or latent shards")
    num = "samples for each number of steps; default 1000"
    parser.add_argument("--num", type=positive, default=1000, metavar="N", help=num)
    _add_cache_argument(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: MODEL.colour_shift.json beside the model")
    add_sampling_arguments(parser)
    parser.set_defaults(steps="5,10,25,50")
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """The options of `latentdebias evaluate compare`."""
    parser = argparse.ArgumentParser(
        prog=f"{command('evaluate')} compare",
        description="Say which settings of two evaluations differ, then which scores do.",
    )
    parser.add_argument("a", type=Path, metavar="A.json")
    parser.add_argument("b", type=Path, metavar="B.json")
    return parser


def _add_cache_argument(parser: argparse.ArgumentParser) -> None:
    cache = "where references' statistics are kept; default: statistics in $LATENTDEBIAS_CACHE or ~/.cache/latentdebias"
    parser.add_argument("--cache", type=Path, metavar="DIR", help=cache)


def _colour_shift(words: Sequence[str]) -> None:
    options = colour_shift_parser()
    arguments = options.parse_args(words)
    try:
        arguments.steps = [positive(part) for part in arguments.steps.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        options.error(f"argument --steps: {arguments.steps!r} is no list of numbers of steps, such as 5,10,25")
    from latentdebias.commands.colour_shift import colour_shift

    colour_shift(arguments)


def _compare(words: Sequence[str]) -> None:
    arguments = compare_parser().parse_args(words)
    from latentdebias.evaluation.protocol.comparison import comparison
    from latentdebias.evaluation.protocol.record import ProtocolRecord

    print(comparison(ProtocolRecord.read(arguments.a), ProtocolRecord.read(arguments.b)))


COMMANDS = {
    "compare": "which settings of two evaluations differ, then which scores do",
    "colour-shift": "how far colours and low frequencies are from the data's, by number of steps",
}
SUBCOMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {"compare": _compare, "colour-shift": _colour_shift}


if __name__ == "__main__":
    run_tool(main)

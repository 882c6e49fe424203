"""`latentdebias analyze`: a figure of the papers, for any trained models."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentdebias.cli import listing
from latentdebias.cli.argument_types import add_imports_argument, names, not_negative, number, positive, spec
from latentdebias.errors import UserError, command, legal_choices, run_tool

Parser = argparse.ArgumentParser
MODELS = "a model directory; once for each model"
RUNS = "a run directory, its model directory, or a folder of runs; once for each"
GUIDANCE = "1: none; default 1.5, and 1 for models without classes"
BLOCKS = "blocks of images that make the intervals; default 8"
SHARDS = "latents of the models' autoencoder; default: those that the run of the first model was trained on"


@dataclass(frozen=True)
class FigureArguments:
    """What a figure shows, and the functions that add its arguments to a parser."""

    shows: str
    add: Sequence[Callable[[Parser], None]]


def main(words: Sequence[str]) -> None:
    """Draw the figure that the first word names."""
    if not words or words[0].startswith("-"):
        overview().parse_args(words or ["--help"])
        return
    if words[0] not in FIGURES:
        raise UserError(f"Unknown figure {words[0]!r}. {legal_choices(words[0], FIGURES)}")
    arguments = parser(words[0]).parse_args(words[1:])
    from latentdebias.commands.analyze import analyze

    analyze(words[0], arguments)


def overview() -> Parser:
    """The options of `latentdebias analyze` without a figure."""
    return Parser(
        prog=command("analyze"),
        usage="%(prog)s FIGURE --out DIR ...",
        description="Draw a figure of the Debias and Min-SNR papers for any trained models: OUT/FIGURE.png, the "
        "numbers in it as OUT/FIGURE.csv, and one line that says what it shows.",
        epilog=listing({name: each.shows for name, each in FIGURES.items()}).replace("commands", "figures", 1),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser(figure: str) -> Parser:
    """The options of `latentdebias analyze FIGURE`."""
    parser = Parser(prog=f"{command('analyze')} {figure}", description=f"{FIGURES[figure].shows}.")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write to")
    for add in FIGURES[figure].add:
        add(parser)
    parser.add_argument("--device", help="default: a GPU, or cpu")
    add_imports_argument(parser)
    return parser


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(map(number, text.split(",")))


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, separated by commas."""
    return tuple(map(positive, text.split(",")))


def _models(parser: Parser, help: str = MODELS) -> None:
    parser.add_argument(
        "--model", required=True, action="append", type=Path, dest="directories", metavar="DIR", help=help
    )


def _runs_or_models(parser: Parser) -> None:
    _models(parser, f"{RUNS}: from the log; or RUN/models, a folder of kept models: computed with them")


def _latents(parser: Parser) -> None:
    parser.add_argument("--shards", type=Path, metavar="DIR", help=SHARDS)
    num = "latents to compute with, evenly spaced in the set; default all, and at most 10000"
    parser.add_argument("--num", type=positive, metavar="N", help=num)
    parser.add_argument("--seed", type=not_negative, metavar="N", help="of the noise; default 0")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="latents at once; default 256")


def _vae(parser: Parser) -> None:
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the models' autoencoder is now; default: its own id")


def _curves(parser: Parser) -> None:
    each = "such as {}; once for each"
    schedule = f"{each.format('cosine or {name: linear, zero_terminal_snr: true}')}; default linear and cosine"
    parser.add_argument("--schedule", action="append", type=spec, metavar="NAME", help=schedule)
    weighting = f"{each.format('debias or {name: min_snr, gamma: 1}')}; default all"
    parser.add_argument("--weighting", action="append", type=spec, metavar="NAME", help=weighting)
    timesteps = "of the effective weight, such as stratified or {name: logit_normal, std: 0.8}; default uniform"
    parser.add_argument("--timesteps", type=spec, metavar="NAME", help=timesteps)
    config = "a config, such as recipes/edm2, whose effective weight is shown as well; once for each"
    parser.add_argument("--config", action="append", metavar="NAME_OR_PATH", help=config)
    parser.add_argument(
        "--model", action="append", type=Path, dest="directories", metavar="DIR", help=f"the same: {RUNS}"
    )
    space = "targets whose squared error is weighted: eps, x0, v, flow; default eps"
    parser.add_argument("--space", type=names, metavar="eps,x0", help=space)


def _error_by_t(parser: Parser) -> None:
    parser.add_argument("--points", type=positive, metavar="N", help="timesteps over the schedule; default 40")
    parser.add_argument("--tail-points", type=positive, metavar="N", help="and above t = 950; default 12")


def _one_step(parser: Parser) -> None:
    parser.add_argument("--t", type=numbers, metavar="500,999", help="timesteps; default eight over the schedule")
    parser.add_argument("--images", type=positive, metavar="N", help="default 3")


def _loss_by_t(parser: Parser) -> None:
    parser.add_argument("--average", type=positive, metavar="N", help="log lines in one point; default 1")


def _draws(parser: Parser) -> None:
    parser.add_argument("--seed", type=not_negative, metavar="N", help="image i is a function of (seed, i); default 0")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images drawn together; default 256")


def _steps(parser: Parser) -> None:
    steps = "default 2,5,10,20,50; up to the 1000 of the schedule"
    parser.add_argument("--steps", type=counts, metavar="2,5,10", help=steps)
    sampler = "such as heun or {name: ddim, eta: 0.5}; once for each; default ddim"
    parser.add_argument("--sampler", action="append", type=spec, metavar="NAME", help=sampler)
    images = "images of each model, sampler and number of steps; default 500"
    parser.add_argument("--images", type=positive, metavar="N", help=images)
    parser.add_argument("--guidance", type=number, metavar="S", help=GUIDANCE)
    reference = "images, archives, an .npz or latent shards; default: the latents of the first model's run"
    parser.add_argument("--reference", metavar="PATH", help=reference)
    extractor = "such as dinov2 or {name: inception, weights: PATH}; default inception, or digits for the demo's models"
    parser.add_argument("--extractor", type=spec, metavar="NAME", help=extractor)


def _trajectory(parser: Parser) -> None:
    parser.add_argument(
        "--sampler", type=spec, metavar="NAME", help="such as heun or {name: ddim, eta: 0.5}; default ddim"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="default 50")
    parser.add_argument("--columns", type=positive, metavar="N", help="timesteps shown; default 8")
    parser.add_argument("--images", type=positive, metavar="N", help="default 2")
    parser.add_argument("--block", type=not_negative, metavar="N", help="whose tokens; default the one in the middle")
    parser.add_argument("--guidance", type=number, metavar="S", help=GUIDANCE)


def _conflict(parser: Parser) -> None:
    parser.add_argument("--bins", type=positive, metavar="N", help="of the schedule; default 10")
    parser.add_argument("--iterations", type=positive, metavar="N", help="updates on one bin; default 50")
    parser.add_argument("--batch", type=positive, metavar="N", help="images of an update; default 64")
    parser.add_argument("--lr", type=number, metavar="LR", help="AdamW's; default 0.0001")
    parser.add_argument("--blocks", type=positive, metavar="N", help=BLOCKS)


def _pareto(parser: Parser) -> None:
    parser.add_argument("--bins", type=positive, metavar="N", help="of the schedule; default 10")
    share = "lambda over the median squared gradient norm; default 0.1"
    parser.add_argument("--regularization", type=number, metavar="X", help=share)
    parser.add_argument("--blocks", type=positive, metavar="N", help=BLOCKS)
    samples = "images from which the weights are solved anew; default 4,16,64"
    parser.add_argument("--samples", type=counts, metavar="4,16,64", help=samples)
    parser.add_argument("--repeats", type=positive, metavar="N", help="sets of so many images; default 8")


def _iterations(parser: Parser) -> None:
    found = parser.add_mutually_exclusive_group(required=True)
    found.add_argument("--model", action="append", type=Path, dest="directories", metavar="DIR", help=RUNS)
    found.add_argument("--scores", type=Path, metavar="FILE", help="a study's scores.csv: its settings, over the seeds")
    parser.add_argument("--sampler", metavar="NAME", help="of the scores in the file; default: as with --steps")
    steps = "of the scores in the file; default: those scored at the most iterations"
    parser.add_argument("--steps", type=positive, metavar="N", help=steps)
    parser.add_argument("--score", metavar="NAME", help="a score in the records; default fid")
    baseline = "the label of a run; default: the one with the constant weighting, or the first"
    parser.add_argument("--baseline", metavar="LABEL", help=baseline)


FIGURES: Mapping[str, FigureArguments] = {
    "curves": FigureArguments(
        "SNR, 1/sqrt(SNR), weightings by t and by log SNR, effective weights; no model needed", [_curves]
    ),
    "error-by-t": FigureArguments(
        "the squared error of eps, x0 and the target against t, and that of an untrained guess",
        [_models, _latents, _error_by_t],
    ),
    "one-step": FigureArguments(
        "estimates of x0 from one network call, beside the images", [_models, _latents, _vae, _one_step]
    ),
    "steps": FigureArguments(
        "pictures, FID and colour shift by the number of sampling steps", [_models, _draws, _vae, _steps]
    ),
    "trajectory": FigureArguments(
        "estimates of x0 along sampling, and principal components of a block's tokens",
        [_models, _draws, _vae, _trajectory],
    ),
    "iterations": FigureArguments(
        "a score against training iterations, and the iterations each run needs for the baseline's best",
        [_iterations],
    ),
    "conflict": FigureArguments(
        "the change of the loss in every bin of t after training on one, and the cosines between the bins' gradients",
        [_models, _latents, _conflict],
    ),
    "pareto": FigureArguments(
        "the Pareto objective of every weighting and of solved weights, and how those vary with few images",
        [_models, _latents, _pareto],
    ),
    "loss-by-t": FigureArguments(
        "the unweighted squared error of x0 over training, by tenth of the schedule",
        [_runs_or_models, _latents, _loss_by_t],
    ),
}


if __name__ == "__main__":
    run_tool(main)

"""The arguments by which images are drawn from a model directory, shared by sample and evaluate."""

import argparse
from pathlib import Path

from latentdebias.cli.argument_types import add_imports_argument, spec


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how images are drawn; their defaults are those of `DrawOptions`."""
    samplers = "ddim, ddpm, dpmpp_2m, dpmpp_3m, euler, heun or unipc, or with options: '{name: ddim, eta: 0.5}'"
    parser.add_argument("--sampler", type=spec, metavar="NAME", help=f"{samplers}; default ddim")
    parser.add_argument("--steps", metavar="N", help="default 50")
    parser.add_argument("--guidance", metavar="S", help="1: none; default 1.5, and 1 for a model without classes")
    add_guidance_arguments(parser)
    parser.add_argument("--seed", metavar="N", help="default 0")
    batch = "images drawn together; changes no more than their last bits; default 64"
    parser.add_argument("--batch-size", metavar="N", help=batch)
    parser.add_argument("--precision", help="fp32, tf32 or bf16; default fp32")
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the model's autoencoder is now; default: its own id")
    parser.add_argument("--device", help="default: this rank's GPU, or cpu")
    add_imports_argument(parser)


def add_guidance_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how the model is guided, except for the scale."""
    interval = "positions on the schedule, 0 data to 1 noise, between which guidance is on; default 0,1"
    parser.add_argument("--guidance-interval", type=_numbers, metavar="LOW,HIGH", help=interval)
    schedules = "constant, cosine or linear; default constant"
    parser.add_argument("--guidance-schedule", type=spec, metavar="NAME", help=schedules)
    parser.add_argument("--guidance-rule", type=spec, metavar="NAME", help="cfg or cfg_zero; default cfg")
    channels = "guide the first N channels only; 3: DiT's published numbers; default all"
    parser.add_argument("--guidance-channels", metavar="N", help=channels)
    parser.add_argument("--guidance-rescale", metavar="PHI", help="0 to 1; default 0")
    zero_init = "the first N steps stand still; models of schedule flow only; default 0"
    parser.add_argument("--zero-init", metavar="N", help=zero_init)
    weaker = "guide by a weaker model instead of the null class"
    parser.add_argument("--autoguidance", type=Path, metavar="DIR", help=weaker)


def _numbers(text: str) -> list[str]:
    """The texts between commas; `DrawOptions` checks that they are numbers."""
    return text.split(",")

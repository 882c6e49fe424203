"""The command `latentdebias`: one file for each command, which parses the arguments and calls `latentdebias.commands`.

None of these files imports torch, or anything that does, before the arguments are parsed: `--help` answers at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from latentdebias.errors import UserError, legal_choices, run_tool
from latentdebias.version import __version__

# On a CPU the threads of libgomp, which torch computes with, wait for each other hundreds of times a step, and spin for
# milliseconds by default before they sleep. Where another process holds a core, that uses up the time slices of the
# very thread that is waited for. With this spin the demo trains at 5.4 steps a second on 2 cores of which another
# process holds one, with the default at 2.2; on idle cores at 14.4, with the default at 16.4, where the machine's own
# noise is 10%. The variable is read when torch is loaded: it is set here, before any command is imported, where the
# ranks of every launcher pass as well.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "8000")

# In a file or a pipe a progress bar is a line each time it moves.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "10")

COMMANDS = {
    "encode": "encode images into latent shards; also verify, inspect, merge and subset sets",
    "train": "train a model, in one process or under deepspeed, torchrun or srun",
    "sample": "draw images of a model",
    "evaluate": "score a model or images; also compare two evaluations",
    "analyze": "draw a figure of the two papers for any trained models",
    "export": "import published checkpoints; export to diffusers or to the Hugging Face hub",
    "ema": "make the average of any width after training",
    "recipes": "list the published training objectives that ship as configs",
    "describe": "say what a run optimises, and which published objective is nearest",
    "plan": "say what a run will cost",
    "bench": "measure rates on this machine",
    "study": "train, score and report a grid of runs under equal settings",
    "play": "open a local page to draw with a model",
    "demo": "encode, train, sample and evaluate the handwritten digits, offline",
}


def start() -> None:
    """The entry point of the installed `latentdebias`."""
    run_tool(main)


def main(words: Sequence[str]) -> None:
    """Run the command that the first of `words` names, with the other words as its arguments."""
    if words and words[0] in COMMANDS:
        importlib.import_module(f"latentdebias.cli.{words[0]}").main(words[1:])
        return
    if words and not words[0].startswith("-"):
        raise UserError(f"Unknown command {words[0]!r}. {legal_choices(words[0], COMMANDS)}")
    parser().parse_args(words or ["--help"])


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias` itself."""
    parser = argparse.ArgumentParser(
        prog="latentdebias",
        usage="%(prog)s COMMAND ...",
        description="Latent-diffusion training for ViT/DiT backbones. Each command says more with --help.",
        epilog=listing(COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def listing(commands: Mapping[str, str]) -> str:
    """The part of a help text that lists commands with what they do, one in each line."""
    width = max(map(len, commands))
    return "commands:\n" + "\n".join(f"  {name:{width}s}  {what}" for name, what in commands.items())

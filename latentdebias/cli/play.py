"""`latentdebias play`: a local page to draw with models, side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latentdebias.errors import command, run_tool


def parser() -> argparse.ArgumentParser:
    """The options of `latentdebias play`."""
    parser = argparse.ArgumentParser(
        prog=command("play"),
        description="Open a local page to draw with a model and see how the pictures come about; with several models, "
        "side by side from the same noise.",
    )
    demo = (
        f"a model directory; once for each, all of the same latents; default demo/digits_debias/model, which "
        f"{command('demo')} trains"
    )
    parser.add_argument("--model", action="append", type=Path, metavar="DIR", help=demo)
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the models' autoencoder is now; default: its own id")
    parser.add_argument("--device", help="default: a GPU, or cpu")
    host = "the address to listen at; by default only this machine can open the page"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    return parser


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    arguments = parser().parse_args(words)
    from latentdebias.commands.play import serve

    serve(arguments)


if __name__ == "__main__":
    run_tool(main)

"""`latentdebias encode`: images to latent shards, and what can be done with shard sets that exist."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from latentdebias.cli import listing
from latentdebias.cli.argument_types import add_imports_argument, names, positive
from latentdebias.errors import UserError, command, legal_choices, run_tool

COMMANDS = {
    "verify": "check every byte of a finished set",
    "status": "how far a set is, from its files alone",
    "finalize": "write the manifest of a set whose shards are all complete",
    "inspect": "decoded latents beside their inputs, and how far apart the two are",
    "merge": "one set out of several, by links",
    "subset": "a set of some samples of another",
}


def main(words: Sequence[str]) -> None:
    """Encode, or run the subcommand that the first word names."""
    if words and not words[0].startswith("-"):
        _run_subcommand(words[0], words[1:])
        return
    given = vars(parser().parse_args(words))
    given.pop("local_rank", None)
    from latentdebias.commands.encode import encode

    encode(given.pop("config", None), given)


def parser() -> argparse.ArgumentParser:
    """The options of encoding; the result lacks those that are not given, for `EncodeOptions` has the defaults."""
    parser = argparse.ArgumentParser(
        prog=command("encode"),
        description="Encode images into latent shards. The same command again resumes; under torchrun, deepspeed or "
        "srun the processes share the work.",
        epilog=f"With a set that exists, {command('encode')} COMMAND DIR; each says more with --help.\n"
        + listing(COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--images", help="class folders, a flat folder, .csv, .jsonl, .zip, .tar, or a saved dataset")
    parser.add_argument("--out", help="where the shards go; run the same command again to resume")
    parser.add_argument("--resolution", help="side of the centre crop, pixels")
    vae = "identity (pixels), digits or a name of your own; a folder; a hub id (default stabilityai/sd-vae-ft-mse)"
    parser.add_argument("--vae", help=vae)
    parser.add_argument("--flip", action="store_true", help="also encode every mirror image")
    parser.add_argument("--dtype", "--precision", help="of the autoencoder: fp32, tf32 or bf16 (default fp32)")
    parser.add_argument("--samples-per-shard", help="default 8192")
    decoded = "images a worker decodes at a time (default 32); does not change the bytes"
    parser.add_argument("--batch-size", help=decoded)
    forward = "images in one call of the autoencoder (default 16); less for less memory, recorded in the set"
    parser.add_argument("--forward-batch", help=forward)
    parser.add_argument("--workers", help="decoding processes (default: up to 4)")
    parser.add_argument("--max-rejects", help="share of a process's inputs that may be undecodable (default 0.01)")
    parser.add_argument("--device", help="default: this rank's GPU, or cpu")
    add_imports_argument(parser)
    parser.add_argument("--config", help="YAML file of these options; the command line wins")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser


def _run_subcommand(name: str, words: Sequence[str]) -> None:
    if name not in COMMANDS:
        raise UserError(
            f"Unknown command {name!r}. {legal_choices(name, COMMANDS)} To encode, begin with --images DIR."
        )
    arguments = PARSERS[name]().parse_args(words)
    from latentdebias.commands import shard_sets

    shard_sets.COMMANDS[name](arguments)


def _set_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{command('encode')} {name}", description=_sentence(COMMANDS[name]))
    parser.add_argument("directory", metavar="DIR", type=Path)
    return parser


def _new_set_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{command('encode')} {name}", description=_sentence(COMMANDS[name]))
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that does not exist yet, or is empty")
    return parser


def _sentence(what: str) -> str:
    return f"{what[0].upper()}{what[1:]}."


def _status_parser() -> argparse.ArgumentParser:
    parser = _set_parser("status")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = _set_parser("inspect")
    parser.add_argument("--images", metavar="DIR", help="what was encoded; without it no inputs are shown or compared")
    parser.add_argument("--num", type=positive, default=8, help="samples on the sheet, evenly spaced (default 8)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: DIR.contact-sheet.png beside DIR")
    parser.add_argument("--vae", metavar="ID_OR_DIR", help="where the set's autoencoder is now (default: as it says)")
    parser.add_argument("--rfid", action="store_true", help="also the FID of all reconstructions to all inputs")
    parser.add_argument("--extractor", default="inception", help="of --rfid: inception, dinov2 or digits")
    parser.add_argument("--device", help="default: a GPU, or cpu")
    add_imports_argument(parser)
    return parser


def _merge_parser() -> argparse.ArgumentParser:
    parser = _new_set_parser("merge")
    parser.add_argument("directories", metavar="DIR", type=Path, nargs="+", help="finished sets of equal settings")
    return parser


def _subset_parser() -> argparse.ArgumentParser:
    parser = _new_set_parser("subset")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a finished set")
    parser.add_argument("--classes", type=names, metavar="A,B", help="names, or indices in a set without names")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--num", type=int, metavar="N", help="samples in all, drawn at random")
    size.add_argument("--per-class", type=int, metavar="N", help="samples of each class, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "verify": lambda: _set_parser("verify"),
    "status": _status_parser,
    "finalize": lambda: _set_parser("finalize"),
    "inspect": _inspect_parser,
    "merge": _merge_parser,
    "subset": _subset_parser,
}


if __name__ == "__main__":
    run_tool(main)

"""`UserError`, which users see as one paragraph instead of a traceback, and the exit codes of the commands."""

import difflib
import enum
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from latentdebias import distributed

MANY = 40
SECONDS_FOR_RANK_0 = 3


class ExitCode(enum.IntEnum):
    """The exit codes of the commands besides 0 (success) and 1 (an exception with its traceback)."""

    USER_ERROR = 2
    TIMED_OUT = 124
    """The watchdog ended training: no step for `training.hang_timeout`, or no checkpoint in `training.stop_within`."""
    INTERRUPTED = 130
    STOPPED = 143
    """Training stopped on request, after a checkpoint."""


class UserError(ValueError):
    """A mistake that the user can mend; its message names the value, the legal choices and the mend."""


def legal_choices(name: object, legal: Iterable[str]) -> str:
    """The end of an error message: the legal name nearest to `name`, then which names are legal.

    Up to 40 legal names are all listed; of more, up to 10 that resemble `name`, or else the first 10 in the alphabet.
    """
    choices = sorted(legal)
    near = difflib.get_close_matches(str(name), choices, n=MANY // 4, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    if len(choices) <= MANY:
        return f"{hint}Legal here: {', '.join(choices)}."
    return f"{hint}Legal here are {len(choices)} names, such as {', '.join(near or choices[: MANY // 4])}."


def command(name: str) -> str:
    """How the user starts the command `name`: `latentdebias encode`, or `python tools/encode.py`.

    The second form is given where this process was itself started by a file of a checkout's `tools/`.
    """
    launcher = _launcher(name)
    return shlex.join(["python", str(launcher)]) if launcher else f"latentdebias {name}"


def pip_install(extra: str) -> str:
    """The pip command that installs an optional dependency of this package, such as `play`."""
    return f"pip install -e '.[{extra}]'" if _launcher("play") else f"pip install 'latentdebias[{extra}]'"


def _launcher(name: str) -> Path | None:
    """The path of `tools/NAME.py`, where this process was started by a file of a checkout's `tools/`; else None."""
    path = Path(sys.argv[0]).parent / f"{name}.py"
    return path if path.absolute().parent.name == "tools" and path.is_file() else None


def run_tool(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command's `main` with the words of the command line.

    A `UserError` is printed as one paragraph, and the process ends with exit code 2; Ctrl-C ends it with 130.
    """
    try:
        main(sys.argv[1:])
    except UserError as error:
        _print_once(f"error: {error}")
        raise SystemExit(ExitCode.USER_ERROR) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _print_once(message: str) -> None:
    """Print `message` to standard error, on every rank but local rank 0 only after 3 seconds.

    When rank 0 has failed, the launcher ends the others within that time: a mistake that all make is printed once.
    """
    if local_rank := distributed.local_rank():
        time.sleep(SECONDS_FOR_RANK_0)
        message = f"[local rank {local_rank}] {message}"
    print(message, file=sys.stderr, flush=True)

"""The one exception that users see as a paragraph instead of a traceback, and the exit codes of the tools."""

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
    """What a tool's process ends with besides 0, and 1 with a traceback."""

    USER_ERROR = 2
    TIMED_OUT = 124
    """The watchdog ended it: no step for `training.hang_timeout`, or no checkpoint within `training.stop_within`."""
    INTERRUPTED = 130
    STOPPED = 143
    """Training stopped on request, after a checkpoint."""


class UserError(ValueError):
    """A mistake that the user can mend; its message names the value, the legal choices and the mend."""


def legal_choices(name: object, legal: Iterable[str]) -> str:
    """One sentence on what is legal instead of `name`: the nearest, then all of them or, of many, the near ones."""
    choices = sorted(legal)
    near = difflib.get_close_matches(str(name), choices, n=MANY // 4, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    if len(choices) <= MANY:
        return f"{hint}Legal here: {', '.join(choices)}."
    return f"{hint}Legal here are {len(choices)} names, such as {', '.join(near or choices[: MANY // 4])}."


def command(name: str) -> str:
    """What to type for the command `name` where the user is: `latentdebias encode`, or `python tools/encode.py`."""
    launcher = _launcher(name)
    return shlex.join(["python", str(launcher)]) if launcher else f"latentdebias {name}"


def pip_install(extra: str) -> str:
    """What to type to install an optional dependency of this package, such as `play`, where the user is."""
    return f"pip install -e '.[{extra}]'" if _launcher("play") else f"pip install 'latentdebias[{extra}]'"


def _launcher(name: str) -> Path | None:
    """The launcher of a command in a checkout's `tools/`, where this process was itself started by one of them."""
    path = Path(sys.argv[0]).parent / f"{name}.py"
    return path if path.absolute().parent.name == "tools" and path.is_file() else None


def run_tool(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` with the command line's words: a `UserError` ends it with code 2 and one paragraph, Ctrl-C by 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        _print_once(f"error: {error}")
        raise SystemExit(ExitCode.USER_ERROR) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _print_once(message: str) -> None:
    """Print from local rank 0; another rank speaks only if the launcher has not ended it by then."""
    if local_rank := distributed.local_rank():
        time.sleep(SECONDS_FOR_RANK_0)
        message = f"[local rank {local_rank}] {message}"
    print(message, file=sys.stderr, flush=True)

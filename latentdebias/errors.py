"""The one exception that users see as a paragraph instead of a traceback."""

import difflib
import sys
import time
from collections.abc import Callable, Iterable

from latentdebias import distributed

MANY = 40
SECONDS_FOR_RANK_0 = 3


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


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool's `main`: a `UserError` ends it with exit code 2 and one paragraph, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        _print_once(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _print_once(message: str) -> None:
    """Print from local rank 0; another rank speaks only if the launcher has not ended it by then."""
    if local_rank := distributed.local_rank():
        time.sleep(SECONDS_FOR_RANK_0)
        message = f"[local rank {local_rank}] {message}"
    print(message, file=sys.stderr, flush=True)

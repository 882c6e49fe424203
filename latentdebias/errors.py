"""The one exception that users see as a paragraph instead of a traceback."""

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake that the user can mend; its message names the value, the legal choices and the mend."""


def legal_choices(name: object, legal: Iterable[str]) -> str:
    """One sentence on what is legal instead of `name`: the nearest choice first, then all of them."""
    choices = sorted(legal)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Legal here: {', '.join(choices)}."


@contextmanager
def errors_for_users() -> Iterator[None]:
    """End the program with exit code 2 and one paragraph on stderr when a `UserError` reaches it."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool's `main`, showing users' mistakes as one paragraph and Ctrl-C as code 130."""
    with errors_for_users():
        try:
            main()
        except KeyboardInterrupt:
            raise SystemExit(130) from None

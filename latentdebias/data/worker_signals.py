"""Signals meant for a run reach its DataLoader workers too, and would end them before the run has stopped."""

import signal

# Launchers kill what is left this many seconds after SIGTERM.
SECONDS_TO_OUTLAST = 30


def outlast_signals(worker_id: int) -> None:
    """A `worker_init_fn`: the worker ends with its trainer; SIGTERM alone ends it only 30 seconds later."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_TO_OUTLAST))

"""Stopping on request: whoever asks, and on whichever rank, all ranks stop after the same step, with a checkpoint."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from latentdebias.training.checkpoints.checkpoint import Checkpoints
from latentdebias.training.stopping.agreement import Agreement
from latentdebias.training.trainer import Hook, TrainState

# SIGUSR1: what `sbatch --signal=USR1@120` sends two minutes before the time limit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LAUNCHER_ENDED = "the end of the launcher"
REASONS = ("", *(number.name for number in SIGNALS), LAUNCHER_ENDED)


class StopRequest:
    """Whether this rank is to stop: the first reason given (one of `REASONS`), and when, in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reason = ""
        self.since = 0.0

    def ask(self, reason: str) -> None:
        """Ask for a stop; a later reason changes nothing."""
        if not self.reason:
            # In this order: another thread may ask how long ago it was in between.
            self.since = self.clock()
            self.reason = reason

    def seconds_ago(self) -> float:
        """How long ago the stop was asked for; 0 where it was not."""
        return self.clock() - self.since if self.reason else 0.0


class Stopping:
    """Hook: stops all ranks after the same step, at most two steps after the first of them was asked to stop.

    Sets `state.stopped_by` to the reason; raises the `UserError` of a checkpoint that a rank could not write.
    """

    def __init__(self, request: StopRequest, checkpoints: Checkpoints, agreement: Agreement) -> None:
        self.request, self.checkpoints, self.agreement = request, checkpoints, agreement

    def __call__(self, state: TrainState) -> None:
        own = [REASONS.index(self.request.reason), int(self.checkpoints.failed())]
        agreed, failed = self.agreement.exchange(own)
        if failed:
            self.checkpoints.finish()
        if agreed:
            self.request.ask(REASONS[agreed])
            state.stopped_by = REASONS[agreed]


def unless_stopped(hook: Hook) -> Hook:
    """A hook that calls `hook`, except at the step at which the run stops."""

    def run(state: TrainState) -> None:
        if not state.stopped_by:
            hook(state)

    return run


@contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """The numbers of stop signals as bytes on a socket, instead of their usual effect; the socket ends with the block.

    A Python handler waits for the main thread, which a collective may hold up for ever; the descriptor does not.
    A signal that this process was started to ignore stays ignored.
    """
    numbers, written = socket.socketpair()
    written.setblocking(False)
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in usual.items() if handler is not signal.SIG_IGN]
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    for number in heard:
        signal.signal(number, _leave_to_the_descriptor)
    try:
        yield numbers
    finally:
        for number in heard:
            signal.signal(number, usual[number] or signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        written.close()


def _leave_to_the_descriptor(number: int, frame: FrameType | None) -> None:
    """Do nothing: a signal reaches the wake-up descriptor only if it has a Python handler."""

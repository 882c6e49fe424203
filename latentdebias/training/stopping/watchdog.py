"""A thread that still acts where the main thread, held up in a collective or by a disk, does not."""

import faulthandler
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from latentdebias import distributed
from latentdebias.errors import ExitCode
from latentdebias.training.stopping.launchers import Launchers
from latentdebias.training.stopping.stopping import LAUNCHER_ENDED, SIGNALS, StopRequest, stop_signals
from latentdebias.training.trainer import Hook, TrainState

POLL_SECONDS = 1.0
# Ctrl-C may reach a rank twice at once, from the terminal and through a launcher.
SECONDS_BETWEEN_CTRL_C = 1.0


class Watchdog:
    """Turns signals and the end of a launcher into a `StopRequest`, and ends the process where it hangs.

    It hangs after `hang_timeout` seconds without a beat, or `stop_within` seconds after the request (0: never).
    """

    def __init__(
        self,
        request: StopRequest,
        hang_timeout: float,
        stop_within: float,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self.request, self.hang_timeout, self.stop_within, self._end = request, hang_timeout, stop_within, end
        self._launchers = Launchers()
        self._step: int | None = None
        self._last_beat = request.clock()
        self._paused = False

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """Watch, and take the signals, for the length of a with-block in the main thread."""
        self._last_beat = self.request.clock()
        with stop_signals() as numbers:
            thread = threading.Thread(target=self._watch, args=(numbers,), name="watchdog", daemon=True)
            thread.start()
            yield self
        thread.join()

    def beat(self, state: TrainState) -> None:
        """Hook: note that a step is done."""
        self._step, self._last_beat = state.step, self.request.clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A with-block that may take any time without a step; a stop that was asked for still has its deadline."""
        self._paused = True
        try:
            yield
        finally:
            self._last_beat, self._paused = self.request.clock(), False

    def unwatched(self, hook: Hook) -> Hook:
        """A hook that calls `hook`, which may take far longer than a step, with the watchdog paused."""

        def run(state: TrainState) -> None:
            with self.paused():
                hook(state)

        return run

    def check(self) -> None:
        """Ask for a stop, or end the process, where it is time to."""
        if not self.request.reason and self._launchers.ended():
            self.request.ask(LAUNCHER_ENDED)
        stopping_for, silent_for = self.request.seconds_ago(), self.request.clock() - self._last_beat
        if 0 < self.stop_within < stopping_for:
            self._give_up(
                f"was asked to stop by {self.request.reason} {stopping_for:.0f} s ago and has written no checkpoint "
                f"since. Where it needs longer, and whoever stops it waits that long, raise training.stop_within."
            )
        elif 0 < self.hang_timeout < silent_for and not self._paused:
            self._give_up(
                f"has not finished a step for {silent_for:.0f} s. The stacks below show where it waits; in a "
                f"collective, another rank or its machine is the one to look at. Where a step may take that long, "
                f"raise training.hang_timeout."
            )

    def on_signal(self, number: int) -> None:
        """Ask for a stop; SIGINT to a run that is stopping already ends the process."""
        if number == signal.SIGINT and self.request.seconds_ago() > SECONDS_BETWEEN_CTRL_C:
            self._end(ExitCode.INTERRUPTED)
        self.request.ask(signal.Signals(number).name)

    def _watch(self, numbers: socket.socket) -> None:
        with numbers:
            while True:
                if select.select([numbers], [], [], POLL_SECONDS)[0]:
                    received = numbers.recv(64)
                    if not received:
                        return
                    for number in received:
                        if number in SIGNALS:
                            self.on_signal(number)
                self.check()

    def _give_up(self, why: str) -> None:
        who = f"rank {distributed.rank()} on {socket.gethostname()}, last at step {self._step},"
        end = f"It ends now, with exit code {ExitCode.TIMED_OUT:d}; the same command resumes from the last checkpoint."
        print(f"\nerror: {who} {why} {end}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr)
        self._end(ExitCode.TIMED_OUT)

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from latentdebias.errors import ExitCode
from latentdebias.training.stopping.launchers import Launchers, is_launcher
from latentdebias.training.stopping.stopping import LAUNCHER_ENDED, StopRequest
from latentdebias.training.stopping.watchdog import Watchdog
from latentdebias.training.trainer import TrainState


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ends():
    return []


@pytest.fixture
def watchdog(clock, ends):
    return Watchdog(StopRequest(clock), hang_timeout=60, stop_within=25, end=ends.append)


def test_a_run_without_a_step_for_hang_timeout_is_ended_and_says_where_it_hangs(watchdog, clock, ends, capfd):
    clock.now = 50
    watchdog.beat(TrainState(7))
    clock.now = 109
    watchdog.check()
    assert not ends
    clock.now = 111
    watchdog.check()
    assert ends == [ExitCode.TIMED_OUT]
    said = capfd.readouterr().err
    assert "rank 0" in said
    assert "step 7, has not finished a step for 61 s" in said
    assert "training.hang_timeout" in said
    assert "test_a_run_without_a_step_for_hang_timeout" in said


def test_long_hooks_are_not_hangs_and_the_count_starts_again_after_them(watchdog, clock, ends, capfd):
    def hook(state):
        clock.now = 1000
        watchdog.check()

    watchdog.unwatched(hook)(TrainState(1))
    watchdog.check()
    assert not ends
    clock.now = 1061
    watchdog.check()
    assert ends


def test_a_stop_that_is_not_done_in_time_is_ended_even_in_a_long_hook(watchdog, clock, ends, capfd):
    watchdog.request.ask("SIGUSR1")
    with watchdog.paused():
        clock.now = 24
        watchdog.check()
        assert not ends
        clock.now = 26
        watchdog.check()
    assert ends == [ExitCode.TIMED_OUT]
    assert "asked to stop by SIGUSR1 26 s ago" in capfd.readouterr().err


def test_zero_is_no_limit(clock, ends):
    watchdog = Watchdog(StopRequest(clock), hang_timeout=0, stop_within=0, end=ends.append)
    watchdog.request.ask("SIGTERM")
    clock.now = 1e6
    watchdog.check()
    assert not ends


def test_ctrl_c_asks_once_and_ends_at_once_the_second_time(watchdog, clock, ends):
    watchdog.on_signal(signal.SIGINT)
    clock.now = 0.1
    watchdog.on_signal(signal.SIGINT)
    assert watchdog.request.reason == "SIGINT"
    assert not ends
    clock.now = 3
    watchdog.on_signal(signal.SIGTERM)
    assert not ends
    watchdog.on_signal(signal.SIGINT)
    assert ends == [ExitCode.INTERRUPTED]


def test_signals_are_heard_while_the_main_thread_runs_no_python():
    watchdog = Watchdog(StopRequest(), hang_timeout=0, stop_within=0)
    with watchdog.watching():
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)
        assert watchdog.request.reason == "SIGTERM"
        assert watchdog.request.seconds_ago() > 0.3


@pytest.fixture
def chain(tmp_path):
    """A process called like the deepspeed runner, which starts one called like torchrun, which starts a sleeper."""
    sleep = "import time; time.sleep(60)"
    scripts = {
        "torchrun": f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])",
        "deepspeed": f"import subprocess, sys; subprocess.run([sys.executable, {str(tmp_path / 'torchrun')!r}])",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
    with subprocess.Popen([sys.executable, tmp_path / "deepspeed"]) as top:
        processes, deadline = [], time.monotonic() + 20
        while len(processes) < 2 or not processes[1].cmdline()[-1].startswith("import time"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            processes = psutil.Process(top.pid).children(recursive=True)
        yield psutil.Process(top.pid), *processes
        for process in (psutil.Process(top.pid), *processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_end_of_any_launcher_above_is_seen_and_asks_for_a_stop(chain, victim, clock, ends):
    watchdog = Watchdog(StopRequest(clock), 60, 25, end=ends.append)
    watchdog._launchers = Launchers(chain[-1])
    watchdog.check()
    assert not watchdog.request.reason
    chain[victim].kill()
    deadline = time.monotonic() + 10
    while not watchdog.request.reason:
        assert time.monotonic() < deadline
        watchdog.check()
    assert watchdog.request.reason == LAUNCHER_ENDED


def test_a_shell_is_no_launcher_so_nohup_goes_on():
    with subprocess.Popen(["sh", "-c", "sleep 60; : deepspeed"]) as shell:
        try:
            assert not is_launcher(psutil.Process(shell.pid))
            assert not Launchers().ended()
        finally:
            for process in (*psutil.Process(shell.pid).children(), shell):
                process.kill()

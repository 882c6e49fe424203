import os
import signal
import socket
import time

import pytest
from run_files import checkpoints_of, losses_of

from latentdebias.errors import UserError
from latentdebias.training.stopping.agreement import Agreement
from latentdebias.training.stopping.stopping import (
    REASONS,
    SIGNALS,
    Stopping,
    StopRequest,
    stop_signals,
    unless_stopped,
)
from latentdebias.training.trainer import TrainState


class LateByOne:
    """An agreement of one rank, without a process group."""

    def __init__(self):
        self.sent = [0, 0]

    def exchange(self, values):
        self.sent, answer = list(values), self.sent
        return answer


class WrittenCheckpoints:
    """Checkpoints of which the last write failed here, or not."""

    def __init__(self, failed=False):
        self.has_failed = failed

    def failed(self):
        return self.has_failed

    def finish(self):
        raise UserError("no room")


def test_the_first_reason_stands_and_its_age_is_counted():
    now = [100.0]
    request = StopRequest(lambda: now[0])
    assert request.seconds_ago() == 0
    request.ask("SIGTERM")
    now[0] = 107.0
    request.ask("SIGINT")
    assert (request.reason, request.seconds_ago()) == ("SIGTERM", 7.0)


def test_a_stop_takes_effect_when_it_is_agreed_and_not_before():
    request = StopRequest()
    stopping, state = Stopping(request, WrittenCheckpoints(), LateByOne()), TrainState()
    stopping(state)
    request.ask("SIGUSR1")
    stopping(state)
    assert not state.stopped_by
    stopping(state)
    assert state.stopped_by == "SIGUSR1"


def test_what_may_take_long_is_left_out_of_a_stop():
    calls = []
    for state in (TrainState(1), TrainState(2, stopped_by="SIGTERM")):
        unless_stopped(calls.append)(state)
    assert [state.step for state in calls] == [1]


def test_a_rank_that_was_not_asked_stops_with_the_others_and_keeps_the_deadline():
    now = [0.0]
    request, agreement = StopRequest(lambda: now[0]), LateByOne()
    stopping, state = Stopping(request, WrittenCheckpoints(), agreement), TrainState()
    agreement.sent = [REASONS.index("SIGTERM"), 0]
    stopping(state)
    now[0] = 9.0
    assert state.stopped_by == request.reason == "SIGTERM"
    assert request.seconds_ago() == 9.0


def test_a_failed_write_ends_all_ranks_at_the_step_at_which_all_know_it():
    stopping, state = Stopping(StopRequest(), WrittenCheckpoints(failed=True), LateByOne()), TrainState()
    stopping(state)
    with pytest.raises(UserError, match="no room"):
        stopping(state)


def test_an_agreement_answers_with_the_call_before(process_group):
    agreement = Agreement(2)
    assert [agreement.exchange(values) for values in ([3, 0], [1, 5], [0, 0])] == [[0, 0], [3, 0], [1, 5]]
    agreement.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_become_bytes_and_are_restored(number):
    # A process in the background of a script is started with SIGINT ignored.
    usual = signal.signal(number, signal.default_int_handler)
    try:
        with stop_signals() as numbers, numbers:
            os.kill(os.getpid(), number)
            numbers.settimeout(5)
            assert numbers.recv(1) == bytes([number])
        assert signal.getsignal(number) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(number, usual)


def test_an_ignored_signal_stays_ignored():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals() as numbers, numbers:
            os.kill(os.getpid(), signal.SIGINT)
            numbers.settimeout(0.1)
            with pytest.raises(socket.timeout):
                numbers.recv(1)
    finally:
        signal.signal(signal.SIGINT, usual)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signalled_run_stops_with_a_checkpoint_and_resumes_bit_for_bit(make_run, tmp_path, capsys, workers):
    same = ["training.steps=12", "training.checkpoint_every=100", f"data.workers={workers}"]
    whole = make_run(*same, f"run_dir={tmp_path / 'whole'}")
    assert not whole.train().stopped_by

    run = make_run(*same)
    signal_at_step(run, 3)
    state = run.train()
    assert state.stopped_by == "SIGTERM"
    assert 3 < state.step < 12
    assert checkpoints_of(run) == [f"step-{state.step:08d}"]
    assert not (run.run_dir / "model").exists()
    assert f"stopped at step {state.step} on SIGTERM" in capsys.readouterr().err

    resumed = make_run(*same)
    assert not resumed.train().stopped_by
    assert losses_of(resumed) == losses_of(whole)
    assert (resumed.run_dir / "model").exists()


def signal_at_step(run, step):
    """SIGTERM to this process as soon as the update of `step` is done; the watchdog's thread gets a moment to hear."""
    update = run.ema.update

    def update_and_signal(step_done):
        update(step_done)
        if step_done == step:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

    run.ema.update = update_and_signal

"""One run of two ranks, hurt in one way after the other: each test resumes what the fault before it has left.

Whatever happens to it, its losses are those of a run that was left alone, to the bit. Any of these tests may run alone.
"""

import resource
import signal
import time

import psutil
import pytest
from launching import checkpoints, deepspeed, losses, rows, torchrun

pytestmark = pytest.mark.launcher
STEPS = 200


@pytest.fixture(scope="module")
def settings(digit_shards):
    return [
        f"data.shards={digit_shards}",
        "model.width=32",
        "model.depth=2",
        "model.heads=2",
        f"training.steps={STEPS}",
        "training.batch_size=16",
        "training.micro_batch_size=1",
        "training.log_every=1",
        "training.checkpoint_every=20",
        "training.sample_every=0",
        "deepspeed.zero_optimization.stage=2",
    ]


@pytest.fixture(scope="module")
def expected(launch, settings, tmp_path_factory):
    """The losses of a run that is left alone."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    assert launch(torchrun(), run_dir, *settings).end(within=150) == 0
    return losses(run_dir)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("hurt") / "run"


@pytest.fixture
def resumed(launch, settings, run_dir, expected):
    """Resume the run under a launcher and let it train five steps that were not logged before."""

    def resume(launcher, *overrides):
        step, before = max(checkpoints(run_dir), default=0), rows(run_dir)
        run = launch(launcher, run_dir, *settings, *overrides)
        run.reach(len(before) + 5)
        assert rows(run_dir)[:step] == before[:step], "it started anew"
        return run

    yield resume
    assert losses(run_dir).items() <= expected.items()


def assert_stopped(run, on):
    [step] = {max(checkpoints(run.run_dir)), max(losses(run.run_dir))}
    assert step < STEPS
    assert f"stopped at step {step} on {on}; " in run.err.read_text()
    assert not list(run.run_dir.glob("checkpoints/*.tmp"))
    assert not (run.run_dir / "model").exists()


def test_sigterm_to_the_deepspeed_launcher_leaves_no_orphans(resumed):
    run = resumed(deepspeed())
    run.launcher.terminate()
    assert run.end(within=30) == -signal.SIGTERM
    assert_stopped(run, on="the end of the launcher")


def test_sigterm_to_the_node_launcher_of_deepspeed_outlasts_its_signals_to_data_workers(resumed):
    run = resumed(deepspeed(), "data.workers=1")
    [node_launcher] = run.launcher.children()
    node_launcher.terminate()
    assert run.end(within=30) == 1
    assert_stopped(run, on="SIGTERM")


def test_sigterm_to_torchrun(resumed):
    run = resumed(torchrun())
    run.launcher.terminate()
    assert run.end(within=30) == 1
    assert_stopped(run, on="SIGTERM")


def test_a_killed_torchrun_leaves_no_orphans(resumed):
    run = resumed(torchrun())
    run.launcher.kill()
    assert run.end(within=30) == -signal.SIGKILL
    assert_stopped(run, on="the end of the launcher")


def test_a_signal_to_one_rank_stops_all(resumed):
    run = resumed(deepspeed())
    run.rank(1).send_signal(signal.SIGUSR1)
    assert run.end(within=30) == 143
    assert_stopped(run, on="SIGUSR1")


def test_ranks_and_launcher_killed_at_once_leave_a_run_that_resumes(resumed, run_dir):
    """None of them gets to say goodbye."""
    resumed(deepspeed()).kill()
    assert max(losses(run_dir)) < STEPS


def test_a_full_disk_on_one_rank_ends_the_run_and_keeps_the_last_checkpoint(resumed, run_dir):
    """A limit on the size of that rank's files, which needs no disk of its own to fill."""
    run = resumed(torchrun())
    run.rank(1).rlimit(psutil.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    written = checkpoints(run_dir)
    assert run.end(within=60) == 1
    assert checkpoints(run_dir) == written
    assert "could not be written" in run.err.read_text()
    assert not list(run_dir.glob("checkpoints/*.tmp"))
    assert max(losses(run_dir)) < STEPS


def test_a_rank_killed_while_it_writes_a_checkpoint_ends_the_run(resumed, run_dir):
    run = resumed(torchrun())
    deadline = time.monotonic() + 60
    while not list(run_dir.glob("checkpoints/*.tmp/*")):
        assert time.monotonic() < deadline
    run.rank(1).kill()
    assert run.end(within=60) == 1
    assert max(losses(run_dir)) < STEPS


def test_a_rank_that_hangs_is_found_by_the_others(resumed, run_dir):
    """The launcher waits for half a minute before it kills the stopped rank."""
    run = resumed(deepspeed(), "training.hang_timeout=8")
    run.rank(1).suspend()
    assert run.end(within=90) == 124
    said = run.err.read_text()
    assert "rank 0 on" in said
    assert "training.hang_timeout" in said
    assert "trainer.py" in said
    assert max(losses(run_dir)) < STEPS


def test_after_all_that_the_losses_are_those_of_the_run_that_was_left_alone(launch, settings, run_dir, expected):
    assert launch(torchrun(), run_dir, *settings).end(within=150) == 0
    assert losses(run_dir) == expected
    assert (run_dir / "model" / "model.safetensors").exists()

"""What a run writes: names, speeds, and the same numbers everywhere."""

import importlib.util
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.prepare import prepare
from latentdebias.training.monitor import speed
from latentdebias.training.monitor.log_writers import scalars

SPEEDS = {"steps_per_second", "images_per_second", "mfu", "memory_gb", "data_wait", "seconds"}


def records_of(run):
    return [json.loads(line) for line in (run.run_dir / "log.jsonl").read_text().splitlines()]


def test_every_line_tells_speed_utilisation_memory_and_waiting(make_run):
    run = make_run("training.peak_tflops=0.001", "training.log_every=2")
    run.train()
    for record in records_of(run):
        assert record.keys() >= SPEEDS
        assert record["images_per_second"] == pytest.approx(8 * record["steps_per_second"])
        assert record["mfu"] > 0
        assert 0 < record["data_wait"] < 1
        assert 0.05 < record["memory_gb"] < 100
    seconds = [record["seconds"] for record in records_of(run)]
    assert seconds == sorted(seconds)


def test_tensorboard_has_the_names_and_numbers_of_the_log(make_run):
    run = make_run("training.steps=2", "training.sample_every=2", "sampling.steps=2", "sampling.per_class=1")
    run.train()
    events = EventAccumulator(str(run.run_dir / "tensorboard")).Reload()
    last = scalars(records_of(run)[-1])
    assert {*events.Tags()["scalars"], "step"} >= last.keys()
    for name in ("loss", "mfu", "grad_norm"):
        assert events.Scalars(name)[-1].value == pytest.approx(last[name])
    assert events.Tags()["images"] == ["samples"]


def test_lists_become_numbered_names_and_gaps_are_left_out():
    assert scalars({"loss": 1.0, "loss_by_t": [0.5, None], "grad_norm": None}) == {"loss": 1.0, "loss_by_t/0": 0.5}


def test_waiting_is_the_time_until_an_item_comes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def slow():
        for item in range(3):
            now[0] += 2.0
            yield item

    clock = speed.WaitClock()
    for _ in clock.around(slow()):
        now[0] += 5.0
    assert clock.seconds == 6.0


def test_utilisation_is_work_done_over_the_peak(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    clock = speed.WaitClock()
    meter = speed.Speedometer(speed.Workload(16, 100, 800.0), clock, speed.torch.device("cpu"), first_step=10)
    now[0], clock.seconds = 4.0, 1.0
    numbers = meter.read(12)
    assert numbers["steps_per_second"] == 0.5
    assert numbers["mfu"] == 0.5 * 16 * 100 / 800
    assert numbers["data_wait"] == 0.25
    now[0] = 5.0
    assert meter.read(13)["steps_per_second"] == 1.0


def test_missing_weights_and_biases_is_an_error_before_anything_starts(small_run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(UserError, match=r"pip install 'latentdebias\[wandb\]'"):
        prepare(load_config("digits_debias.yaml", [*small_run, "training.wandb_project=digits"]))


def test_a_resumed_run_goes_on_in_its_run_of_weights_and_biases(make_run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wanted = ["training.wandb_project=digits", "training.sample_every=2", "sampling.steps=2", "sampling.per_class=1"]
    ids = []
    for steps in (2, 4):
        run = make_run(*wanted, f"training.steps={steps}")
        run.train()
        ids.append((run.run_dir / "wandb_run_id").read_text())
    assert ids[0] == ids[1]
    assert len(list((run.run_dir / "wandb").glob(f"offline-run-*-{ids[0].strip()}"))) == 2

"""The checkpoints of whole runs of one rank: what is kept, what is refused, damage, and other ZeRO stages."""

import hashlib
import json
import re
import threading
from pathlib import Path

import pytest
import torch
from run_files import STAGES, checkpoints_of, in_folder, log_of, losses_of, stage

from latentdebias.errors import UserError
from latentdebias.training.checkpoints import checkpoint
from latentdebias.training.checkpoints.run_state import SavedState, StateShare
from latentdebias.training.hooks.checkpointing import Checkpointing
from latentdebias.training.optimizers import optimizer_bytes
from latentdebias.training.trainer import TrainState
from latentdebias.training.zero_layouts import Fragment


def test_only_the_last_checkpoints_are_kept(make_run):
    run = make_run("training.steps=6", "training.checkpoint_every=1", "training.keep_checkpoints=2")
    run.train()
    assert checkpoints_of(run) == ["step-00000005", "step-00000006"]


def test_those_of_every_so_many_steps_are_kept_as_well(make_run):
    run = make_run(
        "training.steps=6", "training.checkpoint_every=1", "training.keep_checkpoints=1", "training.keep_every=2"
    )
    run.train()
    assert checkpoints_of(run) == ["step-00000002", "step-00000004", "step-00000006"]


def test_a_checkpoint_of_other_settings_is_refused_field_by_field(make_run):
    make_run("training.steps=2").train()
    with pytest.raises(UserError) as error:
        make_run("diffusion.weighting=min_snr", "optimizer.lr=0.5").train()
    assert "diffusion.weighting: 'debias' there, 'min_snr' now" in str(error.value)
    assert "optimizer.lr" in str(error.value)
    assert "training.steps" not in str(error.value)


def damage_newest(run, how):
    newest = sorted((run.run_dir / "checkpoints").glob("step-*"))[-1]
    file = max(
        (path for path in newest.iterdir() if path.suffix == ".safetensors"), key=lambda path: path.stat().st_size
    )
    how(file)
    return newest


@pytest.mark.parametrize(
    "how",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(file.read_bytes()[:500] + b"\x00" + file.read_bytes()[501:]),
        Path.unlink,
    ],
    ids=["truncated", "flipped", "missing"],
)
def test_a_damaged_checkpoint_falls_back_loudly_to_the_one_before(make_run, how, capsys):
    run = make_run()
    run.train()
    expected = losses_of(run)
    newest = damage_newest(run, how)
    again = make_run()
    again.train()
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert losses_of(again) == expected


def test_a_stop_after_damage_keeps_the_checkpoint_that_it_wrote(make_run):
    """One earlier than the damaged one, which would otherwise count as the newest."""
    run = make_run("training.keep_checkpoints=1", "training.keep_every=2", "training.checkpoint_every=4")
    run.train()
    damage_newest(run, lambda file: file.write_bytes(b""))
    again = make_run("training.keep_checkpoints=1", "training.keep_every=2", "training.checkpoint_every=4")
    again.checkpoints.save(3)
    again.checkpoints.finish()
    assert checkpoints_of(again) == ["step-00000003", "step-00000004"]


def test_settings_that_may_change_are_named(make_run):
    make_run("training.steps=2").train()
    run = make_run("optimizer.lr=0.5", "training.may_change=[optimizer.lr]", "training.steps=3")
    run.train()
    assert log_of(run)[-1]["lr"] == 0.5


def test_others_may_read_a_checkpoint(make_run):
    run = make_run("training.steps=2")
    run.train()
    modes = {path.stat().st_mode & 0o777 for path in run.run_dir.glob("checkpoints/step-*/*")}
    assert len(modes) == 1


def test_only_damaged_checkpoints_is_an_error_not_a_fresh_start(make_run):
    run = make_run("training.keep_checkpoints=1")
    run.train()
    damage_newest(run, Path.unlink)
    with pytest.raises(UserError, match="cannot be resumed"):
        make_run("training.keep_checkpoints=1").train()


def test_an_uncommitted_checkpoint_is_passed_over(make_run):
    run = make_run()
    run.train()
    expected = losses_of(run)
    newest = sorted((run.run_dir / "checkpoints").glob("step-*"))[-1]
    newest.rename(newest.with_suffix(".tmp"))
    again = make_run()
    again.train()
    assert losses_of(again) == expected


def test_bad_weights_are_never_saved(make_run):
    run = make_run()
    run.zero_state.partitions[0].data.view(-1)[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        run.checkpoints.save(1)
    assert not list(run.run_dir.glob("checkpoints/step-*"))


def test_training_goes_on_while_a_checkpoint_is_written(make_run, monkeypatch):
    run = make_run("training.steps=4", "training.checkpoint_every=2")
    reached, seen = threading.Event(), []
    write = StateShare.write

    def write_late(share, path):
        if not path.parent.name.startswith("step-00000004"):
            seen.append(reached.wait(timeout=60))
        return write(share, path)

    update = run.ema.update

    def updated(step):
        update(step)
        if step == 3:
            reached.set()

    monkeypatch.setattr(StateShare, "write", write_late)
    run.ema.update = updated
    run.train()
    assert seen == [True]
    assert checkpoints_of(run) == ["step-00000002", "step-00000004"]


def test_a_failed_write_ends_the_run_and_leaves_the_old_checkpoint(make_run, monkeypatch):
    make_run("training.steps=2").train()
    write = StateShare.write

    def full_disk(share, path):
        write(share, path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateShare, "write", full_disk)
    run = make_run()
    with pytest.raises(UserError, match="No space left on device"):
        run.train()
    assert checkpoints_of(run) == ["step-00000002"]


def test_without_memory_for_a_copy_the_same_bytes_are_written_while_training_waits(
    make_run, tmp_path, monkeypatch, capsys
):
    copied = make_run(in_folder(tmp_path, "copied"))
    copied.train()
    assert "written while the training goes on" in capsys.readouterr().out
    monkeypatch.setattr(checkpoint, "free_host_memory", lambda: 0)
    monkeypatch.setattr(StateShare, "copied", None)
    waited = make_run(in_folder(tmp_path, "waited"))
    waited.train()
    told = capsys.readouterr()
    assert "the training waits while one is written" in told.out
    assert told.err.count("does not hold a copy") == 1
    assert checkpoints_of(waited) == checkpoints_of(copied)
    for name in checkpoints_of(copied):
        ours, theirs = (run.run_dir / "checkpoints" / name for run in (waited, copied))
        assert (ours / "rank-00000.safetensors").read_bytes() == (theirs / "rank-00000.safetensors").read_bytes()
        digests = [json.loads((folder / "COMMIT.json").read_text())["sha256"] for folder in (ours, theirs)]
        assert digests[0] == digests[1]
    assert make_run(in_folder(tmp_path, "waited")).checkpoints.resume() == 4


def test_a_write_that_was_waited_for_and_failed_leaves_the_old_checkpoint(make_run, monkeypatch):
    make_run("training.steps=2").train()
    monkeypatch.setattr(checkpoint, "free_host_memory", lambda: 0)
    monkeypatch.setattr(StateShare, "write", lambda share, path: path.write_text("half") / 0)
    run = make_run()
    with pytest.raises(UserError, match="could not be written"):
        run.train()
    assert checkpoints_of(run) == ["step-00000002"]


def test_memory_that_held_one_copy_holds_the_next(make_run, monkeypatch):
    """The peak of the process is then that of the first copy, which may not count against the second."""
    run = make_run()
    free = iter([10**9])
    monkeypatch.setattr(checkpoint, "free_host_memory", lambda: next(free))
    for step in (1, 2):
        run.checkpoints.save(step)
    run.checkpoints.finish()
    assert checkpoints_of(run) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("zero_stage", STAGES)
def test_the_size_that_is_told_at_the_start_is_the_files(make_run, zero_stage):
    run = make_run(stage(zero_stage), "training.steps=1")
    expected = run.state.expected_bytes(optimizer_bytes(run.config.optimizer))
    run.train()
    assert run.state.share().nbytes == pytest.approx(expected, rel=0.02)


def test_a_write_longer_than_a_stop_waits_is_told_once(make_run, capsys):
    run = make_run("training.stop_within=1.0e-9")
    run.checkpoints.save(1)
    run.checkpoints.save(2)
    run.checkpoints.finish()
    assert capsys.readouterr().err.count("longer") == 1
    assert "GB/s, the last time" in run.checkpoints.describe_last_write()


def test_a_stop_says_how_long_the_last_write_took(make_run, capsys):
    run = make_run()
    save = Checkpointing(run.checkpoints, run.config.training)
    save(TrainState(1, "SIGTERM"))
    assert "step 1 (the first of this process" in capsys.readouterr().err
    save(TrainState(2, "SIGTERM"))
    assert re.search(r"step 2 \(\d\.\d\d GB in \d+\.\d s, \d+\.\d\d GB/s, the last time\)", capsys.readouterr().err)


@pytest.mark.parametrize(("before", "after"), [(0, 3), (3, 2), (2, 0), (3, 1)])
def test_a_checkpoint_resumes_at_another_zero_stage(make_run, tmp_path, before, after):
    whole = make_run(stage(before), in_folder(tmp_path, "whole"))
    whole.train()
    make_run(stage(before), "training.steps=2").train()
    resumed = make_run(stage(after))
    resumed.train()
    assert list(losses_of(resumed).values()) == pytest.approx(list(losses_of(whole).values()), rel=1e-5)


@pytest.mark.parametrize("zero_stage", STAGES)
def test_what_is_restored_is_what_was_saved(make_run, zero_stage):
    """Weights, moments and averages, from stage 0, where each is a tensor of its weight's shape."""
    saved = make_run(stage(0), "training.steps=2")
    saved.train()
    restored = make_run(stage(zero_stage))
    assert restored.checkpoints.resume() == 2
    weights, wholes = restored.zero_state.gathered_weights(), {f.name: f for f in saved.zero_state.fragments()}
    for piece in restored.zero_state.fragments():
        whole, there = wholes[piece.name].partition, slice(piece.offset, piece.offset + piece.numel)
        assert torch.equal(weights[piece.name], saved.zero_state.partitions[whole])
        moments, expected = (
            restored.zero_state.optimizer_state(piece.partition),
            saved.zero_state.optimizer_state(whole),
        )
        assert moments["step"] == 2
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[key].view(-1)[there], expected[key].view(-1))
        for name, average in restored.ema.averages.items():
            assert torch.equal(average[piece.partition].view(-1)[there], saved.ema.averages[name][whole].view(-1))


def test_pieces_of_one_number_of_ranks_are_read_by_another(tmp_path):
    weight = torch.arange(23.0)
    whole = Fragment("w", (23,), start=0, numel=23, partition=0, offset=0)
    for rank in range(5):
        piece = whole.piece_of(rank, 5)
        values = weight[piece.start : piece.start + piece.numel].clone()
        share = StateShare({"fp32/w": values}, {"fp32/w": piece.start})
        share.write(tmp_path / f"rank-{rank:05d}.safetensors")
    saved = SavedState(sorted(tmp_path.glob("rank-*.safetensors")))
    for ranks in (1, 2, 3, 7, 23):
        for rank in range(ranks):
            piece = whole.piece_of(rank, ranks)
            read = saved.read("fp32/w", piece.start, piece.numel)
            assert torch.equal(read, weight[piece.start : piece.start + piece.numel])


def test_a_checkpoint_holds_no_pickles(make_run, tmp_path):
    """A pickle that is put there is not opened, though its checksum be committed."""
    run = make_run("training.steps=2")
    run.train()
    trap = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (open, (str(trap), "w"))

    newest = run.run_dir / "checkpoints" / "step-00000002"
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}
    file = next(newest.glob("*.safetensors"))
    torch.save({"module": Trap()}, file)
    commit = json.loads((newest / "COMMIT.json").read_text())
    commit["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (newest / "COMMIT.json").write_text(json.dumps(commit))
    with pytest.raises(UserError, match="cannot be read"):
        make_run("training.steps=4").train()
    assert not trap.exists()

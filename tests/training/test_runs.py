"""Whole runs of one rank, in this process: resume, export, log and refusals."""

import pytest
import torch
import yaml
from run_files import STAGES, checkpoints_of, in_folder, log_of, losses_of, stage

import latentdebias
from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.prepare import prepare
from latentdebias.run import kept_model


# Pairs of stage and precision; test_blocks.py trains with the others.
@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "bf16")])
def test_a_resumed_run_goes_on_bit_for_bit(make_run, tmp_path, zero_stage, precision):
    same = [stage(zero_stage), f"training.precision={precision}", "data.flip=true"]
    whole = make_run(*same, in_folder(tmp_path, "whole"))
    whole.train()
    make_run(*same, in_folder(tmp_path, "parts"), "training.steps=2").train()
    resumed = make_run(*same, in_folder(tmp_path, "parts"))
    resumed.train()
    assert losses_of(resumed) == losses_of(whole)
    left, right = (latentdebias.load_model(run.run_dir / "model").backbone.state_dict() for run in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_every_stage_takes_the_same_steps_and_logs_the_same_gradient_norms(make_run, tmp_path):
    curves, norms = [], []
    for zero_stage in STAGES:
        run = make_run(stage(zero_stage), in_folder(tmp_path, str(zero_stage)))
        run.train()
        curves.append(list(losses_of(run).values()))
        norms.append([row["grad_norm"] for row in log_of(run)])
    assert min(norms[0]) > 0
    for curve, norm in zip(curves[1:], norms[1:], strict=True):
        assert curve == pytest.approx(curves[0], rel=1e-5)
        assert norm == pytest.approx(norms[0], rel=1e-4)


# In fp32 test_first_update.py compares every weight, at every stage.
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_the_first_step_is_adamws(make_run, tmp_path, zero_stage):
    """DeepSpeed's own bf16 mode takes a first step that is 29% short at stage 0."""
    settings = ["training.steps=1", "training.precision=bf16", "optimizer.betas=[0.99,0.99]", "ema.decays=[0.0]"]
    run = make_run(*settings, stage(zero_stage), "training.grad_clip=0")
    before = run.zero_state.gathered_weights()
    run.train()
    after = latentdebias.load_model(run.run_dir / "model").backbone.state_dict()
    moved = (after["final_layer.linear.bias"] - before["final_layer.linear.bias"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, run.config.optimizer.lr), rtol=1e-3, atol=0)


def test_accumulated_micro_batches_train_like_the_whole_batch(make_run, tmp_path):
    whole, parts = (make_run(in_folder(tmp_path, f"micro{m}"), f"training.micro_batch_size={m}") for m in (8, 2))
    whole.train()
    parts.train()
    assert list(losses_of(parts).values()) == pytest.approx(list(losses_of(whole).values()), rel=1e-4)


def test_training_learns(make_run):
    run = make_run("training.steps=80", "training.batch_size=32", "training.log_every=10")
    run.train()
    curve = list(losses_of(run).values())
    assert sum(curve[-3:]) < 0.7 * sum(curve[:3])


def test_a_run_directory_holds_what_is_promised(make_run):
    run = make_run("training.sample_every=4", "sampling.steps=2", "sampling.per_class=1")
    run.train()
    assert yaml.safe_load((run.run_dir / "config.yaml").read_text())["training"]["steps"] == 4
    rows = log_of(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0].keys() >= {"loss", "lr", "grad_norm", "images_per_second", "loss_by_t"}
    assert rows[0]["grad_norm"] > 0
    assert len(rows[0]["loss_by_t"]) == 10
    names = {path.relative_to(run.run_dir).as_posix() for path in run.run_dir.rglob("*")}
    assert {"samples/step-00000004.png", "model/model.safetensors", "model/config.yaml"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert checkpoints_of(run) == ["step-00000002", "step-00000004"]


def test_learning_rate_warms_up(make_run):
    run = make_run("lr_schedule.warmup_steps=4", "optimizer.lr=0.4")
    run.train()
    assert [row["lr"] for row in log_of(run)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_shards_of_another_kind_are_refused(make_run):
    with pytest.raises(UserError, match=r"data\.vae is 'stabilityai/sd-vae-ft-mse'"):
        make_run("data.vae=stabilityai/sd-vae-ft-mse")
    with pytest.raises(UserError, match=r"data\.latent_shape"):
        make_run("data.latent_shape=[4,32,32]", "model.name=dit_s_patch2")


def test_a_run_directory_in_use_is_refused(make_run, tmp_path):
    import subprocess
    import sys

    run = make_run()
    holder = (
        f"import fcntl, sys; file = open({str(run.run_dir / 'lock')!r}, 'a+'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('process 7 on host', file=file, flush=True); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="in use by process 7 on host"):
            run.train()
        process.stdin.close()
    run.train()


def test_a_model_is_exported_on_demand(make_run):
    run = make_run("training.steps=2")
    run.train()
    weights = (run.run_dir / "model" / "model.safetensors").read_bytes()
    (run.run_dir / "model" / "model.safetensors").unlink()
    make_run("training.steps=100").export("0.998")
    assert (run.run_dir / "model" / "model.safetensors").read_bytes() == weights


def test_models_of_chosen_steps_are_those_of_runs_that_end_there(make_run, tmp_path):
    kept, ended = (
        make_run(in_folder(tmp_path, name), *more)
        for name, more in [("kept", ["training.export_at=[2]"]), ("ended", ["training.steps=2"])]
    )
    kept.train()
    ended.train()
    assert [path.name for path in (kept.run_dir / "models").iterdir()] == ["step-00000002"]
    for file in ("model.safetensors", "config.yaml"):
        assert (kept_model(kept.run_dir, 2) / file).read_bytes() == (ended.run_dir / "model" / file).read_bytes()


def test_exporting_before_training_is_an_error(make_run):
    with pytest.raises(UserError, match="no checkpoint to export"):
        make_run().export("0.998")


def test_parts_of_a_users_module_train_and_load_again(make_run, tmp_path, monkeypatch):
    (tmp_path / "halved_weighting.py").write_text(
        "from dataclasses import dataclass\n"
        "from latentdebias.diffusion import WEIGHTINGS, Weighting\n"
        "@WEIGHTINGS.register('halved')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Halved(Weighting):\n"
        "    def weight(self, level):\n"
        "        return 0.5 * level.alpha / level.alpha\n"
    )
    monkeypatch.chdir(tmp_path)
    run = make_run("imports=[halved_weighting]", "diffusion.weighting=halved", "training.steps=1")
    run.train()
    config = yaml.safe_load((run.run_dir / "model" / "config.yaml").read_text())
    assert config["imports"] == ["halved_weighting"]
    assert latentdebias.load_model(run.run_dir / "model").diffusion.loss_weight(torch.tensor([3])) == 0.5


def test_batches_may_be_read_by_worker_processes(make_run, tmp_path):
    alone, helped = (make_run(f"data.workers={n}", in_folder(tmp_path, f"workers{n}")) for n in (0, 2))
    alone.train()
    helped.train()
    assert losses_of(helped) == losses_of(alone)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batch_size=0", "greater than 0"),
        ("ema.decays=[2]", "less than 1"),
        ("ema.decays=[]", "at least one average"),
        ("ema.decays=[0.5,0.5]", "kept once"),
        ("ema.stds=[0.4]", "0.001 to 0.288"),
        ("ema.stds=[0.0505]", "three decimals"),
        ("ema.snapshot_every=10", "ema.stds is empty"),
        ("optimizer.lr=-1", "greater than 0"),
        ("optimizer.betas=[0.9]", "betas"),
        ("optimizer.name=adamm", "Did you mean 'adamw'"),
        ("optimizer.warmup_steps=3", "Unknown key 'warmup_steps'"),
        ("lr_schedule=cosin", "Did you mean 'cosine'"),
        ("lr_schedule.warmup=3", "Did you mean 'warmup_steps'"),
        ("optimizer={name: timm, opt: lionn, lr: 1.0e-4}", "Did you mean 'lion'"),
        ("optimizer={name: timm, opt: muon, lr: 1.0e-4}", "deepspeed.zero_optimization.stage=0"),
        ("training.compile=all", "'all'"),
        ("data.label_drop=5", "less than or equal to 1"),
        ("model.heads=5", "do not divide"),
        ("model.depth=0", "greater than 0"),
        ("diffusion.schedule.beta_end=2", "less than 1"),
        ("sampling.steps=2000", "1000"),
        ("training.micro_batch_size=3", "not a multiple"),
        ("diffusion.timesteps={name: laplace, mu: 20}", "laplace, mu: 20.0} never draw"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_starts(small_run, override, words):
    with pytest.raises(UserError) as error:
        prepare(load_config("digits_debias.yaml", [*small_run, override]))
    assert words in str(error.value)


def test_a_run_dir_that_cannot_be_made_is_refused(small_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        prepare(load_config("digits_debias.yaml", [*small_run, f"run_dir={tmp_path}/file/run"]))


def test_remote_shards_train_through_a_cache_as_local_ones_do(make_run, digit_shards, tmp_path):
    local, remote = make_run(in_folder(tmp_path, "local")), [f"data.shards=file://{digit_shards}"]
    with pytest.raises(UserError, match=r"data\.cache=FOLDER"):
        make_run(*remote)
    cached = make_run(*remote, f"data.cache={tmp_path / 'cache'}", in_folder(tmp_path, "remote"))
    local.train()
    cached.train()
    assert losses_of(cached) == losses_of(local)


@pytest.mark.parametrize("zero_stage", STAGES)
def test_an_update_that_is_not_finite_is_skipped(make_run, monkeypatch, zero_stage):
    run = make_run(stage(zero_stage), "training.steps=3")
    backward = run.engine.backward
    weights = []

    def poisoned(loss):
        weights.append(run.zero_state.gathered_weights())
        backward(loss * (float("nan") if len(weights) == 2 else 1))

    monkeypatch.setattr(run.engine, "backward", poisoned)
    run.train()
    first, second, third = weights
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(second[name], third[name]) for name in second)
    assert [row["skipped_updates"] for row in log_of(run)] == [0, 1, 1]
    assert run.zero_state.optimizer_state(0)["step"] == 2


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_run_ends_after_too_many_skipped_updates(make_run, zero_stage):
    run = make_run(stage(zero_stage), "training.steps=9", "training.max_skipped=3", "training.checkpoint_every=9")
    with torch.no_grad():
        run.zero_state.partitions[0].view(-1)[:] = float("nan")
        run.zero_state.update_model(lambda name, numel: torch.full((numel,), float("nan")))
    with pytest.raises(UserError, match="last 3 updates up to step 3"):
        run.train()
    assert checkpoints_of(run) == []


def test_masks_of_dropout_are_those_of_the_step_after_a_resume(make_run, tmp_path):
    fields = "channels: 32, multipliers: [1], res_blocks: 1, attention_sides: [], head_width: 32, dropout: 0.5"
    settings = [f"model={{name: unet, {fields}}}"]
    whole = make_run(*settings, "training.steps=4", in_folder(tmp_path, "whole"))
    whole.train()
    for steps in (2, 4):
        resumed = make_run(*settings, f"training.steps={steps}", "training.checkpoint_every=2")
        resumed.train()
    assert losses_of(resumed) == losses_of(whole)

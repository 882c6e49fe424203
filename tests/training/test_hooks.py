"""A user's own hook: named in the config, called on every update with what it may use of the run."""

import json

import pytest
import torch
from run_files import log_of, stage

from latentdebias.config import load_config
from latentdebias.errors import UserError
from latentdebias.prepare import prepare

# What it sees goes into a file, as a run's process has no other way to tell.
MODULE = '''
import json
from dataclasses import dataclass

from latentdebias.training.hooks import HOOKS, Hook, HookContext, TrainState


@HOOKS.register("weight_norm")
@dataclass(frozen=True, kw_only=True)
class WeightNorm:
    """The norm of the averaged weights, in the log."""

    every: int = 1

    def build(self, run: HookContext) -> Hook:
        def measure(state: TrainState) -> None:
            if state.step % self.every == 0:
                weights = run.gathered(run.average)
                if run.log is not None:
                    total = sum(weight.double().square().sum() for weight in weights.values())
                    run.log.write(state.step, {"weight_norm": float(total.sqrt())})

        return measure


@HOOKS.register("sampler_check")
@dataclass(frozen=True, kw_only=True)
class SamplerCheck:
    def build(self, run: HookContext) -> Hook:
        def check(state: TrainState) -> None:
            sampler = run.open_image_sampler()
            sampler.load_weights(run.gathered("none"))
            seen = {"rank": run.rank, "classes": sampler.model.num_classes, "resolution": run.manifest.resolution}
            (run.run_dir / "seen.json").write_text(json.dumps(seen))

        return check
'''


@pytest.fixture
def own_hooks(tmp_path, monkeypatch):
    (tmp_path / "my_hooks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "imports=[my_hooks]"


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_hook_of_a_users_module_runs_after_every_update(make_run, own_hooks, zero_stage):
    run = make_run(own_hooks, "hooks=[{name: weight_norm, every: 2}, sampler_check]", stage(zero_stage))
    run.train()
    norms = {row["step"]: row["weight_norm"] for row in log_of(run) if "weight_norm" in row}
    assert norms.keys() == {2, 4}
    weights = run.state.gathered(run.config.ema.first)
    norm = torch.stack([weight.double().square().sum() for weight in weights.values()]).sum().sqrt()
    assert norms[4] == pytest.approx(float(norm))
    assert norms[2] != norms[4]
    assert json.loads((run.run_dir / "seen.json").read_text()) == {"rank": 0, "classes": 10, "resolution": 32}


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ("[weight_nrm]", "Did you mean 'weight_norm'"),
        ("[{name: weight_norm, evry: 2}]", "Did you mean 'every'"),
    ],
)
def test_a_mistyped_hook_is_refused_before_anything_starts(small_run, own_hooks, hooks, words):
    with pytest.raises(UserError) as error:
        prepare(load_config("digits_debias.yaml", [*small_run, own_hooks, f"hooks={hooks}"]))
    assert words in str(error.value)

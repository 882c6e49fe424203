"""How figures name models, and the latents that they are given."""

from pathlib import Path

import pytest
import torch

from latentdebias.analysis.inputs import Inputs, labels_of, run_of
from latentdebias.diffusion import Diffusion
from latentdebias.errors import UserError


def test_models_are_named_by_weighting_then_target_then_place():
    eps, v = Diffusion("linear", "eps", "debias"), Diffusion("linear", "v", "debias")
    other = Diffusion("linear", "eps", {"name": "min_snr", "gamma": 1})
    here = [Path("runs/a/model"), Path("runs/b/model")]
    assert labels_of([eps, other], here) == ["debias", "min_snr gamma 1.0"]
    assert labels_of([eps, v], here) == ["debias on eps", "debias on v"]
    assert labels_of([eps, eps], here) == ["debias (a)", "debias (b)"]
    assert labels_of([eps, eps], [Path("x/a/model"), Path("y/a/model")]) == ["debias (x/a/model)", "debias (y/a/model)"]


def test_latents_are_normalised_and_their_noise_depends_on_the_seed_and_number_alone(
    random_model, digit_shards, tmp_path
):
    random_model(vae="digits")
    few, more = (Inputs((tmp_path / "model",), digit_shards, num=num).latents for num in (100, 200))
    assert len(few) == 100
    torch.testing.assert_close(few.eps, more.eps[::2])
    assert sorted(set(few.labels.tolist())) == list(range(10))
    another = Inputs((tmp_path / "model",), digit_shards, num=100, seed=1).latents
    assert not torch.equal(few.eps, another.eps)


def test_latents_of_another_autoencoder_are_refused(random_model, digit_shards, tmp_path):
    random_model()
    with pytest.raises(UserError, match="another autoencoder"):
        Inputs((tmp_path / "model",), digit_shards).latents  # noqa: B018
    with pytest.raises(UserError, match="--shards DIR"):
        Inputs((tmp_path / "model",)).latents  # noqa: B018


def test_the_run_of_a_model_is_where_the_log_is(tmp_path):
    kept = tmp_path / "run" / "models" / "step-00000010"
    kept.mkdir(parents=True)
    assert run_of(kept) == kept.parent
    (tmp_path / "run" / "log.jsonl").touch()
    assert [run_of(each) for each in (kept, kept.parent, kept.parent.parent)] == [tmp_path / "run"] * 3

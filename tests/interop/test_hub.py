import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from random_models import SMALL_DIT

from latentdebias.errors import UserError
from latentdebias.interop.hub import push_to_hub
from latentdebias.models.model_directory import load_model

SHARD = {"name": "shard-000000.tar", "count": 900, "size": 1, "sha256": "ab" * 32}
MANIFEST = {
    "shards": [SHARD, {**SHARD, "count": 100}],
    "count": 1000,
    "rejected": [{"name": "broken.png", "reason": "cut short"}],
    "preprocessing": "adm_center_crop",
    "flips": True,
}
EVALUATION = {
    "scores": {"fid": 12.345678, "inception_score": 50.5},
    "num_samples": 50000,
    "num_reference": 10000,
    "reference": "val.npz",
    "reference_sha256": "cd" * 32,
    "extractor": "inception",
    "sampling": {"sampler": "ddim", "steps": 250, "guidance": 1.5},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The network's end of the hub's client: what is uploaded lands in a folder."""
    uploaded = tmp_path / "uploaded"

    def create_repo(self, repo_id, exist_ok):
        assert exist_ok
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, uploaded)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return uploaded


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_card_says_what_the_model_is_what_it_saw_and_how_it_scored(hub, random_model, tmp_path):
    random_model()
    manifest, scores = write(tmp_path / "m.json", MANIFEST), write(tmp_path / "e.json", EVALUATION)
    address = push_to_hub(tmp_path / "model", "me/small-dit", None, manifest, scores)
    assert address == "https://huggingface.co/me/small-dit"
    card = (hub / "README.md").read_text()
    for words in (
        "# small-dit",
        "library_name: diffusers",
        "32x32 images, 10 classes",
        'DiTPipeline.from_pretrained("me/small-dit", trust_remote_code=True)',
        "name: learned_range",
        "width: 32",
        "the average 0.9999, after 7 steps",
        "1000 images in 2 shards, 1 inputs rejected",
        "adm_center_crop, with mirrored views",
        "ab" * 32,
        "| fid | 12.35 |",
        "50000 samples against 10000 of val.npz",
        "sampler ddim, steps 250, guidance 1.5",
    ):
        assert words in card, words


def test_without_manifest_and_scores_the_card_says_so(hub, random_model, tmp_path):
    random_model({**SMALL_DIT, "mlp": "swiglu"}, num_classes=0)
    push_to_hub(tmp_path / "model", "me/other", None, None, None)
    card = (hub / "README.md").read_text()
    assert 'custom_pipeline="me/other"' in card
    assert "unconditional" in card
    assert "None were given" in card


def test_the_uploaded_folder_draws_with_diffusers_alone(hub, random_model, tmp_path):
    random_model()
    push_to_hub(tmp_path / "model", "me/small-dit", None, None, None)
    code = (
        "import sys; sys.modules['latentdebias'] = None\n"
        "from diffusers import DiTPipeline\n"
        f"pipe = DiTPipeline.from_pretrained({str(hub)!r}, trust_remote_code=True)\n"
        "assert pipe.transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift == 0\n"
        "pipe([1], num_inference_steps=1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_model_directory_is_uploaded_beside_it(hub, random_model, tmp_path):
    random_model()
    push_to_hub(tmp_path / "model", "me/small-dit", None, None, None)
    assert load_model(hub / "latentdebias").config.step == 7


@pytest.mark.parametrize(
    "error", [HFValidationError("bad name"), OSError("no network"), LocalTokenNotFoundError("log in")]
)
def test_a_refusal_of_the_hub_is_one_paragraph(hub, random_model, tmp_path, monkeypatch, error):
    def refuse(self, repo_id, exist_ok):
        raise error

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    random_model()
    with pytest.raises(UserError, match="hf auth login"):
        push_to_hub(tmp_path / "model", "me/small-dit", None, None, None)
    assert not hub.exists()


def test_scores_beside_the_model_are_found(hub, random_model, tmp_path):
    random_model()
    write(tmp_path / "model.evaluation.json", EVALUATION)
    push_to_hub(tmp_path / "model", "me/small-dit", None, None, None)
    assert "| fid | 12.35 |" in (hub / "README.md").read_text()


def test_a_file_of_something_else_is_an_error(hub, random_model, tmp_path):
    random_model()
    other = write(tmp_path / "other.json", {"scores": {}})
    with pytest.raises(UserError, match=r"other\.json has no extractor"):
        push_to_hub(tmp_path / "model", "me/small-dit", None, None, other)


def test_a_manifest_that_is_none_is_an_error(hub, random_model, tmp_path):
    random_model()
    with pytest.raises(UserError, match=r"none\.json"):
        push_to_hub(tmp_path / "model", "me/small-dit", None, Path(tmp_path, "none.json"), None)

"""Pictures and records of version 0.1.0: drawn to the same latents and images, and read as its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from draw_options import draw_options
from safetensors.torch import load_file

from latentdebias import load_model
from latentdebias.drawing.image_sampler import labels_by_class
from latentdebias.drawing.sample_formats import AdmNpz
from latentdebias.drawing.sample_record import FORMAT_VERSION, options_of, read_record, settings_of
from latentdebias.drawing.sample_set import SampleSet
from latentdebias.errors import UserError
from latentdebias.evaluation.protocol.comparison import differences
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import SamplingProtocol
from latentdebias.evaluation.sources.sample_sets import protocol_of

FOLDER = Path(__file__).parent
LATENTS = load_file(FOLDER / "latents.safetensors")
GUIDANCE = {"scale": 2.0, "interval": (0.1, 0.9), "schedule": "cosine"}
OPTIONS = draw_options(sampler="heun", steps=5, guidance=GUIDANCE)


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER / "run" / "model")


@pytest.mark.parametrize("name", sorted(LATENTS))
def test_latents_are_those_of_version_0_1(model, name):
    guidance = {**GUIDANCE, "rescale": 0.3, "channels": 3}
    options = draw_options(sampler=name, steps=6, guidance=guidance, seed=5, batch_size=4)
    latents = torch.cat(list(model.latent_model.sampler(options).draw(torch.arange(6), options)))
    torch.testing.assert_close(latents, LATENTS[name], rtol=0, atol=1e-5)


def test_images_are_those_of_version_0_1(model):
    images = torch.cat(list(model.image_sampler().draw(labels_by_class(list(range(10)), 2), OPTIONS)))
    written = np.load(FOLDER / "samples" / "samples.npz")["arr_0"].astype(int)
    assert np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - written).max() <= 1


def test_the_record_of_a_sample_set_is_read_in_this_versions_form():
    record = read_record(FOLDER / "samples" / "sampling.json", "")
    assert record["format_version"] == FORMAT_VERSION
    assert {name: record[name] for name in settings_of(OPTIONS)} == settings_of(OPTIONS)
    assert options_of(record, "") == OPTIONS
    assert not [name for name in record if name.startswith("guidance_")]


def test_a_set_of_version_0_1_is_gone_on_with_and_not_mixed_with_another(tmp_path):
    shutil.copytree(FOLDER / "samples", tmp_path, dirs_exist_ok=True)
    labels, record = labels_by_class(list(range(10)), 2), read_record(tmp_path / "sampling.json", "")
    SampleSet(tmp_path, labels, OPTIONS, (AdmNpz(),), record).begin()
    other = draw_options(sampler="heun", steps=5, guidance=2.0)
    with pytest.raises(UserError, match="guidance was"):
        SampleSet(tmp_path, labels, other, (AdmNpz(),), {**record, **settings_of(other)}).begin()


def test_an_evaluation_of_version_0_1_compares_as_equal_with_the_same_settings(tmp_path):
    old = ProtocolRecord.read(FOLDER / "evaluation.json")
    assert old.sampling == protocol_of(FOLDER / "samples")
    old.write(tmp_path / "evaluation.json")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["sampling"]["guidance"]["schedule"] == "cosine"
    assert "other" not in written["sampling"]
    assert differences(old, ProtocolRecord.read(tmp_path / "evaluation.json")) == {}


def test_a_sampler_with_fields_is_read_from_an_evaluation_of_version_0_1(tmp_path):
    values = json.loads((FOLDER / "evaluation.json").read_text())
    values["sampling"]["sampler"] = "{'name': 'heun', 's_churn': 10, 'rho': 7.0}"
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    sampling = ProtocolRecord.read(tmp_path / "evaluation.json").sampling
    assert isinstance(sampling, SamplingProtocol)
    assert sampling.sampler == {"name": "heun", "s_churn": 10.0}

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from latentdebias.errors import UserError
from latentdebias.evaluation import METRICS, FeatureSet, ProtocolRecord, SamplingProtocol, record_of
from latentdebias.sampling.images import DrawOptions


def feature_set(count, sha256):
    return FeatureSet(torch.zeros(count, 2), torch.zeros(count, 2), None, None, sha256)


@pytest.fixture
def record():
    return record_of(
        {"fid": 2.0812345, "kid": 0.00123456},
        [METRICS.build("fid"), METRICS.build({"name": "kid", "subsets": 7, "seed": 3})],
        feature_set(1000, "a" * 64),
        feature_set(1797, "b" * 64),
        samples_path="samples/",
        reference_path="digits/",
        extractor="digits sha256:cc",
        sampling=SamplingProtocol(
            model="model/", sampler="ddim", steps=50, guidance=1.5, seed=11, vae="sd-vae-ft-mse sha256:dd", ema="0.9999"
        ),
    )


def test_the_file_holds_the_scores_and_the_whole_protocol(record, tmp_path):
    record.write(tmp_path / "evaluation.json")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["scores"] == {"fid": 2.0812345, "kid": 0.00123456}
    assert written["metrics"][1] == {"name": "kid", "subsets": 7, "subset_size": 1000, "seed": 3}
    assert (written["num_samples"], written["num_reference"]) == (1000, 1797)
    assert written["reference_sha256"] == "b" * 64
    assert written["sampling"]["ema"] == "0.9999"
    assert written["versions"]["torch"] == importlib.metadata.version("torch")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_written_record_reads_back(record, tmp_path):
    record.write(tmp_path / "evaluation.json")
    values = json.loads((tmp_path / "evaluation.json").read_text())
    values["sampling"] = SamplingProtocol(**values["sampling"])
    assert ProtocolRecord(**values) == record


def test_an_old_record_survives_a_failed_write(record, tmp_path):
    path = tmp_path / "evaluation.json"
    record.write(path)
    before = path.read_text()
    unwritable = ProtocolRecord(**{**vars(record), "samples": object()})
    with pytest.raises(TypeError):
        unwritable.write(path)
    assert path.read_text() == before


def test_an_unwritable_path_is_an_error_of_the_user(record, tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        record.write(tmp_path / "nowhere" / "evaluation.json")


def test_the_line_tells_every_setting(record):
    line = record.line()
    assert "\n" not in line
    for part in ("fid 2.081", "kid 0.001235", "1000 samples", "1797 of digits/", "bbbbbbbbbbbb", "ddim 50 steps"):
        assert part in line
    for part in (
        "guidance 1.5",
        "seed 11",
        "fp32",
        "EMA 0.9999",
        "VAE sd-vae-ft-mse",
        "digits sha256:cc",
        "torchmetrics 1",
    ):
        assert part in line


def test_found_images_have_no_sampling_settings(record):
    found = ProtocolRecord(**{**vars(record), "sampling": None})
    assert "guidance" not in found.line()


def test_the_protocol_is_that_of_the_options():
    options = DrawOptions(sampler="heun", steps=7, guidance=2.5, seed=3, batch_size=9, precision="bf16")
    assert SamplingProtocol.of(Path("runs/model"), options, "digits", "std0.050") == SamplingProtocol(
        model="runs/model",
        sampler="heun",
        steps=7,
        guidance=2.5,
        seed=3,
        vae="digits",
        ema="std0.050",
        precision="bf16",
    )

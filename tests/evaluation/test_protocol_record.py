import importlib.metadata
import json
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import pytest
import torch

from latentdebias.drawing.image_sampler import DrawOptions
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import FeatureSet
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol import record as record_module
from latentdebias.evaluation.protocol.record import ProtocolRecord, SamplingProtocol, record_of
from latentdebias.sampling import SAMPLERS


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
    protocol = SamplingProtocol.of(Path("runs/model"), options, "digits", "std0.050", Path("weaker"))
    assert protocol.other["guidance_interval"] == list(options.guidance_interval)
    assert replace(protocol, other={}) == SamplingProtocol(
        model="runs/model",
        sampler="heun",
        steps=7,
        guidance=2.5,
        seed=3,
        vae="digits",
        ema="std0.050",
        precision="bf16",
        nfe=SAMPLERS.build("heun").nfe(7),
        autoguidance="weaker",
    )


def test_intervals_stand_behind_their_scores_and_read_back(record, tmp_path):
    told = replace(record, intervals={"fid": (1.5, 2.6)}, resamples=200, resize="bicubic to 224")
    assert "fid 2.081 [1.5, 2.6] | kid 0.001235 |" in told.line()
    assert "resize bicubic to 224" in told.line()
    told.write(tmp_path / "evaluation.json")
    assert ProtocolRecord.read(tmp_path / "evaluation.json") == told


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), ("3", "is damaged"), ("{", "is damaged"), ('{"scores": {}}', "Missing key")],
)
def test_a_file_that_is_no_record_is_an_error_of_the_user(tmp_path, content, words):
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words):
        ProtocolRecord.read(path)


@dataclass(frozen=True, kw_only=True)
class LaterOptions(DrawOptions):
    """Not of the protocol: what a caller's own options add."""

    every: int = 5


def test_the_number_of_network_evaluations_is_the_samplers():
    heun = SamplingProtocol.of(Path("m"), DrawOptions(sampler="heun", steps=7), "digits", "none")
    assert heun.nfe == SAMPLERS.build("heun").nfe(7) > 7
    plain = SamplingProtocol.of(Path("m"), LaterOptions(), "digits", "none")
    assert plain.nfe == 50
    assert plain.other.keys() & {"every", "batch_size", "steps"} == set()


def test_settings_that_options_gain_later_are_recorded(monkeypatch, record):
    extended = make_dataclass("Extended", [("interval", tuple, (0.2, 0.8))], bases=(DrawOptions,), frozen=True)
    monkeypatch.setattr(record_module, "DrawOptions", extended)
    protocol = SamplingProtocol.of(Path("m"), extended(), "digits", "none")
    assert protocol.other["interval"] == [0.2, 0.8]
    assert "interval [0.2, 0.8]" in replace(record, sampling=protocol).line()


def test_published_moments_have_no_number(record):
    assert "1000 samples against the moments in digits/" in replace(record, num_reference=0).line()

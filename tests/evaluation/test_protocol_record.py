import importlib.metadata
import json
from dataclasses import asdict, fields, replace

import pytest
from draw_options import draw_options

from latentdebias.errors import UserError
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.sampling import DrawOptions
from latentdebias.sampling.heun import Heun
from latentdebias.training.hooks.evaluation import EvaluationOptions

MODEL = ModelIdentity(model="model/", vae="sd-vae-ft-mse sha256:dd", ema="0.9999")


@pytest.fixture
def record():
    metrics = [METRICS.build("fid"), METRICS.build({"name": "kid", "subsets": 7, "seed": 3})]
    return ProtocolRecord(
        scores={"fid": 2.0812345, "kid": 0.00123456},
        metrics=[METRICS.spec_of(metric) for metric in metrics],
        num_samples=1000,
        num_reference=1797,
        samples="samples/",
        samples_sha256="a" * 64,
        reference="digits/",
        reference_sha256="b" * 64,
        extractor="digits sha256:cc",
        sampling=SamplingProtocol.of(MODEL, draw_options(seed=11), labels="even"),
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
    assert ProtocolRecord.read(tmp_path / "evaluation.json") == record


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


def test_the_settings_are_what_the_line_tells_beside_the_scores(record):
    told = [part for part in record.line().split(" | ") if part.split()[0] not in record.scores]
    drawing = next(part for part in told if part.startswith("ddim"))
    assert [*told[:2], *drawing.split(", "), *told[3:]] == record.settings()


def test_found_images_have_no_sampling_settings(record):
    found = ProtocolRecord(**{**vars(record), "sampling": None})
    assert "guidance" not in found.line()


def test_the_protocol_is_that_of_the_options():
    guidance = {"scale": 2.5, "schedule": "cosine"}
    options = draw_options(sampler="heun", steps=7, guidance=guidance, seed=3, batch_size=9, precision="bf16")
    protocol = asdict(SamplingProtocol.of(MODEL, options))
    assert protocol["sampler"] == "heun"
    assert protocol["guidance"] == {
        "scale": 2.5, "interval": [0.0, 1.0], "schedule": "cosine", "rule": "cfg", "channels": None, "rescale": 0.0
    }  # fmt: skip
    assert {name: protocol[name] for name in ("steps", "seed", "precision", "model", "ema")} == {
        "steps": 7, "seed": 3, "precision": "bf16", "model": "model/", "ema": "0.9999"
    }  # fmt: skip
    assert protocol["nfe"] == Heun().nfe(7) > 7


def test_every_drawing_option_but_the_batch_size_is_of_the_protocol():
    names = {each.name for each in fields(DrawOptions)} - {"batch_size"}
    assert names <= {each.name for each in fields(SamplingProtocol)}


def test_what_a_caller_adds_to_the_options_is_not_of_the_protocol():
    assert SamplingProtocol.of(MODEL, EvaluationOptions(every=5)) == SamplingProtocol.of(
        MODEL, draw_options(guidance=1)
    )


def test_the_line_tells_what_of_guidance_is_not_usual(record):
    guidance = {"scale": 2, "interval": (0.2, 0.8)}
    sampling = SamplingProtocol.of(MODEL, draw_options(guidance=guidance, sampler={"name": "ddim", "eta": 0.5}))
    line = replace(record, sampling=sampling).line()
    assert "guidance 2 interval [0.2, 0.8], seed 0" in line
    assert "'eta': 0.5" in line


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


def test_published_moments_have_no_number(record):
    assert "1000 samples against the moments in digits/" in replace(record, num_reference=0).line()

from dataclasses import replace

import pytest
from draw_options import draw_options

from latentdebias.evaluation.protocol.comparison import comparison, differences
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol

METRICS = [{"name": "fid"}, {"name": "precision_recall"}, {"name": "colour_shift"}]


def record(scores=None, intervals=None, **changes):
    sampling = SamplingProtocol.of(ModelIdentity(model="model", vae="digits", ema="0.999"), draw_options())
    values = {
        "scores": scores or {"fid": 3.0},
        "intervals": intervals or {},
        "metrics": METRICS,
        "num_samples": 1000,
        "num_reference": 2000,
        "samples": "model",
        "samples_sha256": "a" * 64,
        "reference": "images",
        "reference_sha256": "b" * 64,
        "extractor": "digits sha256:c",
        "sampling": sampling,
        "resize": "none",
        "versions": {"torch": "2.0"},
    }
    return ProtocolRecord(**{**values, **changes})


def test_the_same_settings_are_said_to_be_the_same():
    a, b = record(), record(scores={"fid": 4.0}, samples_sha256="d" * 64)
    assert differences(a, b) == {}
    assert comparison(a, b).startswith("Every setting is the same.")


def test_every_setting_that_differs_is_named_before_the_scores():
    a = record()
    b = record(
        sampling=replace(a.sampling, steps=25, nfe=25, guidance={**a.sampling.guidance, "interval": [0.2, 0.8]}),
        versions={"torch": "2.1"},
        num_samples=500,
    )
    assert differences(a, b) == {
        "num_samples": (1000, 500),
        "sampling.steps": (50, 25),
        "sampling.guidance.interval": ([0.0, 1.0], [0.2, 0.8]),
        "sampling.nfe": (50, 25),
        "versions.torch": ("2.0", "2.1"),
    }
    lines = comparison(a, b).splitlines()
    assert "  sampling.steps: A 50, B 25" in lines
    assert lines.index("  versions.torch: A 2.0, B 2.1") < lines.index(next(x for x in lines if x.startswith("fid")))


@pytest.mark.parametrize("name", ["num_samples", "reference_sha256", "extractor", "resize"])
def test_what_decides_a_scores_value_is_warned_of(name):
    other = record(**{name: 7 if name == "num_samples" else "other"})
    assert f"Not one protocol: {name}" in comparison(record(), other)
    assert "Not one protocol" not in comparison(record(), record(samples="elsewhere"))


@pytest.mark.parametrize(
    ("name", "a", "b", "verdict"),
    [
        ("fid", (3.0, [2.5, 3.5]), (4.0, [3.4, 4.6]), "not distinguishable at 95%"),
        ("fid", (3.0, [2.5, 3.5]), (4.0, [3.6, 4.4]), "A is better (lower)"),
        ("fid", (4.0, [3.6, 4.4]), (3.0, [2.5, 3.5]), "B is better (lower)"),
        ("precision", (0.5, [0.4, 0.6]), (0.8, [0.7, 0.9]), "B is better (higher)"),
        ("colour_shift_red", (-1.0, [-2.0, 0.0]), (3.0, [2.0, 4.0]), "A is better (nearer to 0)"),
        ("fid", (3.0, [2.5, 3.5]), (3.0, None), "no interval in both"),
        ("kid_std", (3.0, [2.5, 3.5]), (9.0, [8.5, 9.5]), "no telling which is better"),
    ],
)
def test_the_verdict_follows_the_intervals(name, a, b, verdict):
    records = [record({name: score}, {name: interval} if interval else {}) for score, interval in (a, b)]
    (line,) = [line for line in comparison(*records).splitlines() if line.startswith(f"{name}:")]
    assert line.endswith(verdict) or verdict in line


def test_found_and_drawn_samples_can_be_compared():
    text = comparison(record(sampling=None), record())
    assert "sampling.steps: A not there, B 50" in text


def test_records_without_a_common_score_say_so():
    assert "No score is in both." in comparison(record({"fid": 1.0}), record({"kid": 1.0}))

import copy

import pytest
import yaml

from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.studies.study import Study


@pytest.fixture(autouse=True, scope="session")
def statistics_cache(tmp_path_factory):
    """References' statistics are kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTDEBIAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def write_study(digit_shards, digit_images, tmp_path):
    """Write the file of a study of two weightings and runs of seconds; arguments replace its sections."""

    def write(**changes):
        options = {
            "base": "digits_debias.yaml",
            "out": str(tmp_path / "study"),
            "set": {
                "data.shards": str(digit_shards),
                "model": {"width": 32, "depth": 2, "heads": 2},
                "training.batch_size": 8,
                "training.log_every": 1,
                "training.checkpoint_every": 2,
                "training.sample_every": 0,
            },
            "grid": {"diffusion.weighting": ["constant", {"name": "min_snr", "gamma": 3}]},
            "evaluate": {
                "at": [2, 4],
                "steps": [1, 3],
                "early_steps": [3],
                "num": 20,
                "reference": str(digit_images),
                "extractor": "digits",
                "resamples": 2,
            },
        }
        for name, value in changes.items():
            both = isinstance(value, dict) and name in ("set", "evaluate")
            options[name] = {**copy.deepcopy(options[name]), **value} if both else value
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(options, sort_keys=False))
        return path

    return write


@pytest.fixture
def read_study(write_study):
    """The study that `write_study` writes."""
    return lambda **changes: Study.read(write_study(**changes))


@pytest.fixture
def write_records():
    """Write a record for each score of `cells`, with the FID that a function of (cell, score) gives, unless None."""

    def write(cells, fid):
        for cell in cells:
            for score in cell.scores:
                if (value := fid(cell, score)) is not None:
                    path = cell.file(score, ".json")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    record = ProtocolRecord(
                        {"fid": value}, [{"name": "fid"}], 20, 20, "", "", "", "", "", intervals={"fid": (1.0, 99.0)}
                    )
                    record.write(path)

    return write

import pytest

from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run


@pytest.fixture
def make_run(small_run, process_group):
    """Build a run of seconds; keyword-free overrides in the form of --set."""

    def make(*overrides: str) -> Run:
        config = load_config("digits_debias.yaml", [*small_run, *overrides])
        return Run(prepare(config))

    return make

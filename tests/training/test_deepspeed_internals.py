import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from latentdebias.errors import UserError
from latentdebias.training import deepspeed_internals, engine
from latentdebias.training.deepspeed_internals import NAMES, check_names, check_wrapped


def test_all_that_the_engine_imports_of_deepspeed_is_listed():
    tree = ast.parse(Path(engine.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {f"{node.module}.{name.name}" for node in imports for name in node.names if node.module[:9] == "deepspeed"}
    assert len(found) > 5
    assert found <= {*NAMES}


def test_the_installed_deepspeed_has_all_of_it():
    check_names("0")


@pytest.mark.parametrize("name", ["deepspeed.utils.nothing", "deepspeed.nowhere.at_all"])
def test_a_version_that_lacks_a_name_is_told_so(monkeypatch, name):
    monkeypatch.setattr(deepspeed_internals, "NAMES", (*NAMES, name))
    with pytest.raises(UserError, match=rf"DeepSpeed 9\.9 is installed, which has no {name}"):
        check_names("9.9")


@pytest.mark.parametrize("missing", ["_hp_mapping", "overflow"])
def test_a_version_that_wraps_otherwise_is_told_so(missing):
    optimizer = {"single_partition_of_fp32_groups": [], "bit16_groups": [], "overflow": False, "optimizer": None}
    weight = {"_hp_mapping": None}
    check_wrapped("9.9", 2, SimpleNamespace(**optimizer), SimpleNamespace(**weight))
    for names in (optimizer, weight):
        names.pop(missing, None)
    with pytest.raises(UserError, match=f"{missing} at ZeRO stage 2"):
        check_wrapped("9.9", 2, SimpleNamespace(**optimizer), SimpleNamespace(**weight))

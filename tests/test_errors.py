import sys

import pytest

from latentdebias.errors import command, pip_install


@pytest.mark.parametrize("started_by", ["/usr/bin/latentdebias", "", "-c", "latentdebias/cli/encode.py", "train.py"])
def test_a_message_names_the_installed_command(monkeypatch, started_by):
    monkeypatch.setattr(sys, "argv", [started_by])
    assert command("encode") == "latentdebias encode"
    assert pip_install("play") == "pip install 'latentdebias[play]'"


def test_a_message_names_the_launcher_beside_the_one_that_runs(monkeypatch, tmp_path):
    (tmp_path / "tools").mkdir()
    for name in ("encode", "train", "play"):
        (tmp_path / "tools" / f"{name}.py").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["../tools/train.py", "--config", "x.yaml"])
    assert command("encode") == "python ../tools/encode.py"
    assert pip_install("play") == "pip install -e '.[play]'"
    monkeypatch.chdir(tmp_path / "tools")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert command("encode") == "python encode.py"


def test_a_folder_of_ones_own_called_tools_is_no_checkout(monkeypatch, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tools" / "train.py")])
    assert command("encode") == "latentdebias encode"

"""The versions that CI installs: the oldest are the lower bounds of setup.py, and the newest are allowed by it."""

import re
import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.fixture
def requirements(monkeypatch):
    """What setup.py requires for the tests, by name."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    all_of_them = map(Requirement, [*given["install_requires"], *given["extras_require"]["test"]])
    return {requirement.name: requirement for requirement in all_of_them}


def pinned(name):
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    return dict(re.fullmatch(r"([\w-]+)==([\d.]+)", line).groups() for line in lines if not line.startswith("#"))


def test_the_oldest_versions_are_the_lower_bounds(requirements):
    for name, version in pinned("oldest.txt").items():
        [bound] = [each.version for each in requirements[name].specifier if each.operator == ">="]
        depth = len(Version(bound).release)
        assert Version(version).release[:depth] == Version(bound).release, name


def test_the_newest_versions_are_allowed(requirements):
    newest = pinned("newest.txt")
    assert newest.keys() == pinned("oldest.txt").keys()
    for name, version in newest.items():
        assert requirements[name].specifier.contains(version), name


@pytest.mark.parametrize("name", ["torch", "timm", "diffusers", "deepspeed", "webdataset", "torchmetrics"])
def test_what_decides_numbers_is_pinned(name):
    assert name in pinned("oldest.txt")

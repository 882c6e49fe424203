"""Prints docs/dependencies.md: the packages that an installation brings along, with their licences.

    make licences

What is listed is installed in the environment that runs this; a package that is not is an error.
"""

import re
import runpy
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

import setuptools
from packaging.requirements import Requirement

EXTRAS = ("datasets", "analyze", "s3", "demo")
HEAD = """# Dependencies and their licences

Made by `make licences` from what the packages themselves state; `direct` are those that `setup.py` names, the others
come with them. The extras `play`, `browser`, `examples` and `wandb` are not listed, nor are the packages `nvidia-*` and
`cuda-*` of CUDA builds of torch: NVIDIA's libraries are proprietary, and redistributed under NVIDIA's own terms.

| package | | licence |
|---|---|---|"""


def main() -> None:
    required = _requirements()
    direct = {_normal(Requirement(text).name) for text in required}
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in required]
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = _normal(requirement.name)
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here: pip install -e '.[check]'") from None
        for text in found[name].requires or []:
            inner = Requirement(text)
            if not inner.marker or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(Requirement(text.partition(";")[0]))
    print(HEAD)
    for name, package in sorted(found.items()):
        if not name.startswith(("nvidia-", "cuda-")):
            print(f"| {name} | {'direct' if name in direct else ''} | {_licence(package)} |")


def _requirements() -> list[str]:
    given: dict[str, Any] = {}
    setuptools.setup = given.update
    runpy.run_path("setup.py")
    return [*given["install_requires"], *(text for extra in EXTRAS for text in given["extras_require"][extra])]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(package: Distribution) -> str:
    """The SPDX expression, else what the classifiers say, else the first line of the field `License`."""
    about = package.metadata
    if expression := about["License-Expression"]:
        return str(expression)
    prefix = "License :: "
    classes = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith(prefix)]
    classes = [text for text in classes if text != "OSI Approved"]
    field = (about["License"] or "").strip().split("\n")[0]
    return "; ".join(classes) or field[:60] or "not stated"


if __name__ == "__main__":
    main()

"""What importing the package costs and brings; each case in a fresh interpreter."""

import subprocess
import sys

import pytest

import latentdebias

USE_TIMM = "print(type(timm.create_model('dit_s_patch8', img_size=8)).__name__)"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_imports_nothing_heavy():
    heavy = {"torch", "timm", "numpy", "pydantic", "yaml"}
    loaded = python("import sys, latentdebias; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not heavy & set(loaded)


def test_a_model_is_loaded_without_diffusers():
    assert python("import sys, latentdebias; latentdebias.load_model; print('diffusers' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "imports",
    [
        "import latentdebias, timm",
        "import timm, latentdebias",
        "import latentdebias, importlib.util; importlib.util.find_spec('timm'); import timm.models",
        "import latentdebias.backbones, timm",
    ],
)
def test_timm_knows_the_backbones_whichever_is_imported_first(imports):
    assert python(f"{imports}; {USE_TIMM}") == "DiT"


def test_every_public_name_is_there():
    for name in latentdebias.__all__:
        assert getattr(latentdebias, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Difusion'"):
        _ = latentdebias.Difusion

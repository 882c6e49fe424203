"""Every public name that the API reference shows has a docstring, and those that take tensors state shapes."""

import importlib
import inspect
import re

import pytest
from doc_blocks import site_pages

PAGES = site_pages()
NAMES = [name for _, sources in PAGES.API.values() for source in sources for name in PAGES.public(source)]
# A shape such as (B, C, H, W), (B,), `(N, D)` or one size for all; or where it is stated.
SHAPE = re.compile(r"\(\)|\([A-Z\d*a-z_]+(?:\([^)]*\))?[^)]*,[^)]*\)|shapes?")


def documented(name):
    """The classes and functions behind a public name; of a module, those that it defines."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        home, _, own = name.rpartition(".")
        return [getattr(importlib.import_module(home), own)]
    assert module.__doc__, name
    values = [value for key, value in vars(module).items() if not key.startswith("_")]
    return [value for value in values if getattr(value, "__module__", None) == name and callable(value)]


def functions(thing):
    """The public functions, methods and properties of a class or function, by name."""
    if not inspect.isclass(thing):
        return {thing.__name__: thing} if inspect.isfunction(thing) else {}
    found = {}
    for key, value in vars(thing).items():
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not key.startswith("_") and inspect.isfunction(value):
            found[f"{thing.__name__}.{key}"] = value
    return found


def docstring(thing, name):
    """The docstring of a function, or that of the method which it overrides."""
    return inspect.getdoc(getattr(thing, name.rpartition(".")[2]) if inspect.isclass(thing) else thing) or ""


@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_a_public_name_is_documented_with_its_shapes(name):
    for thing in documented(name):
        if inspect.isclass(thing):
            assert thing.__doc__, thing
            assert not thing.__doc__.startswith(f"{thing.__name__}("), f"{thing}: a dataclass without a docstring"
        about = (inspect.getdoc(thing) or "") if inspect.isclass(thing) else ""
        for called, function in functions(thing).items():
            text = docstring(thing, called)
            assert text, f"{name}: {called} has no docstring"
            annotations = " ".join(map(str, getattr(function, "__annotations__", {}).values()))
            if re.search("Tensor|ndarray", annotations):
                assert SHAPE.search(text + about), f"{name}: {called} states no shape"

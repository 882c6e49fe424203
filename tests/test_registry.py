import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from latentdebias.errors import UserError, legal_choices
from latentdebias.registry import Registry, load_plugins, option, plain, validate


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("square")
    @dataclass(frozen=True)
    class Square:
        side: float = 1.0

    registry.preset("big_square", of="square", side=9.0)
    return registry


def test_a_name_a_mapping_and_an_object_build_the_same(shapes):
    built = shapes.build({"name": "square", "side": 9})
    assert shapes.build("big_square") == built
    assert shapes.build(built) is built
    assert shapes.build(shapes.spec_of(built)) == built


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sqare", "Unknown shape 'sqare'. Did you mean 'square'"),
        ({"name": "square", "sid": 1}, "Unknown key 'sid' in shape 'square'. Did you mean 'side'"),
        ({"name": "square", "side": "wide"}, "Bad value 'wide' for 'side'"),
        ({}, "Unknown shape None"),
    ],
)
def test_mistakes_name_the_nearest_legal_choice(shapes, spec, words):
    with pytest.raises(UserError) as error:
        shapes.build(spec)
    assert words in str(error.value)


def test_something_unregistered_cannot_be_written_down(shapes):
    with pytest.raises(UserError, match="register"):
        shapes.spec_of(object())


def test_a_users_module_registers_a_weighting(tmp_path, monkeypatch):
    (tmp_path / "my_weightings.py").write_text(
        "from dataclasses import dataclass\n"
        "from latentdebias.diffusion import WEIGHTINGS, Weighting\n"
        "@WEIGHTINGS.register('twice')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Twice(Weighting):\n"
        "    def weight(self, level):\n"
        "        return 2 * level.alpha / level.alpha\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["my_weightings"])
    import torch

    from latentdebias import Diffusion

    assert Diffusion(weighting="twice").loss_weight(torch.tensor([7])) == 2
    sys.modules.pop("my_weightings")


def test_a_missing_plugin_module_is_an_error():
    with pytest.raises(UserError, match="no_such_module"):
        load_plugins(["no_such_module"])


def test_long_lists_of_choices_are_cut_to_the_near_ones():
    text = legal_choices("name17x", [f"name{i}" for i in range(300)])
    assert "Did you mean 'name17'" in text
    assert len(text) < 300


def test_a_config_field_holds_the_built_part_and_names_its_place(shapes):
    @dataclass(frozen=True)
    class Page:
        shape: Annotated[Any, shapes.part]
        others: list[Annotated[Any, shapes.part]] = option(list, "more of them")
        scale: float = option(2.0, "how much larger", on_resume="free")

    page = validate(Page, {"shape": "big_square", "others": [{"name": "square"}]}, "page.yaml")
    assert (page.shape.side, page.others[0].side, page.scale) == (9, 1, 2)
    assert plain(page) == {
        "shape": {"name": "square", "side": 9.0},
        "others": [{"name": "square", "side": 1.0}],
        "scale": 2.0,
    }
    assert shapes.preset_of(page.shape) == "big_square"
    assert shapes.preset_of(page.others[0]) == "square"
    with pytest.raises(UserError, match=r"^others\.0 in page.yaml: Unknown key 'sid' in shape 'square'"):
        validate(Page, {"shape": "square", "others": [{"name": "square", "sid": 1}]}, "page.yaml")
    with pytest.raises(UserError, match=r"shape in page\.yaml: 5 is no shape"):
        validate(Page, {"shape": 5}, "page.yaml")

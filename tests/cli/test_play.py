"""The page of `latentdebias play`: what it draws, the page itself where Gradio is there, and once in a real browser."""

import dataclasses
import importlib.util
import re
import shlex
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from latentdebias.batches.normalization import LatentNormalization
from latentdebias.commands import play
from latentdebias.errors import UserError
from latentdebias.models.model_directory import CONFIG, WEIGHTS, read_model_config, save_model

ROOT = Path(__file__).parents[2]
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not installed")
CHOICE = {"chosen": 8, "count": 3, "guidance": 2.5, "low": 0.1, "high": 0.9, "sampler": "ddim", "steps": 5, "seed": 4}


@pytest.fixture
def player(model_dir):
    return play.open_player([model_dir], None, "cpu")


@pytest.fixture
def other_model(model_dir, tmp_path):
    """Write a copy of the model with some of its config changed; the weights are changed as well."""

    def write(**changes):
        config = dataclasses.replace(read_model_config(model_dir / CONFIG), **changes)
        weights = load_file(model_dir / WEIGHTS)
        save_model(tmp_path / "other", config, {name: 0.9 * weight for name, weight in weights.items()})
        return tmp_path / "other"

    return write


def test_the_command_shown_draws_the_same_pictures(tool, player, tmp_path):
    [shown] = player.draw(**CHOICE)
    grid, strip, line = shown.grid, shown.strip, shown.command
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("latentdebias", "sample")
    arguments[arguments.index("--out") + 1] = tmp_path / "out"
    result = tool("sample", *arguments)
    assert result.code == 0, result.err
    drawn = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "out" / "images" / "0007").iterdir())]
    pixels = np.asarray(grid)[2:-2:3, 2:-2]
    for index, image in enumerate(drawn):
        assert np.array_equal(pixels[:, index * 98 : index * 98 + 96 : 3], image)
    assert len(drawn) == 3
    assert np.array_equal(np.asarray(strip), np.asarray(Image.open(tmp_path / "out" / "trajectory.png")))


def test_all_classes_are_drawn_in_turn(player):
    [shown] = player.draw(**{**CHOICE, "chosen": 0, "count": 10})
    assert "--classes" not in shown.command
    assert shown.grid.size == (8 * 98 + 2, 2 * 98 + 2)


def test_several_models_draw_from_the_same_noise_as_each_does_alone(player, model_dir, other_model):
    other = other_model(diffusion={"schedule": "cosine", "target": "eps", "weighting": "constant"})
    first, second = play.open_player([model_dir, other], None, "cpu").draw(**CHOICE)
    assert np.array_equal(first.grid, player.draw(**CHOICE)[0].grid)
    assert np.array_equal(second.grid, play.open_player([other], None, "cpu").draw(**CHOICE)[0].grid)
    assert not np.array_equal(first.grid, second.grid)
    assert ["--out samples/1 " in first.command, "--out samples/2 " in second.command] == [True, True]


def test_only_samplers_that_suit_the_schedule_are_offered(player):
    assert "heun" in player.samplers
    assert "euler" not in player.samplers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 0.9, "high": 0.1}, "is empty"),
        ({"guidance": 1}, "would do nothing"),
        ({"seed": None}, "'seed'"),
        ({"seed": -1}, "'seed'"),
    ],
)
def test_a_bad_choice_is_a_users_error(player, change, words):
    with pytest.raises(UserError, match=words):
        player.draw(**{**CHOICE, **change})


def test_a_class_name_with_a_comma_goes_by_number(monkeypatch):
    names = ["cat, tabby", "dog"]
    monkeypatch.setattr(play.Player, "classes", names)
    player = play.Player([], None)
    assert [player._spelled(label) for label in (0, 1)] == ["0", "dog"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "latentdebias demo"), (["--model", "/nowhere"], "no model directory"), (["--device", "foo"], "'foo'")],
)
def test_a_model_that_cannot_be_opened_is_code_2(tool, model_dir, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    # Not Gradio's absence is asked about here.
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    result = tool("play", *(["--model", model_dir] if "--device" in arguments else []), *arguments)
    assert result.code == 2
    assert words in result.err


def test_without_gradio_the_extra_is_named(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = tool("play")
    assert result.code == 2
    assert "pip install 'latentdebias[play]'" in result.err


def test_models_of_other_latents_are_code_2(tool, model_dir, other_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    result = tool("play", "--model", model_dir, "--model", other_model(normalization=LatentNormalization([0.0], [1.0])))
    assert result.code == 2
    assert "a model of other latents than the first one: its normalization is" in result.err


@needs_gradio
def test_the_page_draws_and_shows_a_users_error_as_a_message(player):
    page = play.build_page(player)
    draw = next(each.fn for each in page.fns.values() if each.api_name == "draw")
    message, grid, strip, line = draw(*CHOICE.values())
    assert not message.visible
    assert grid.width == 3 * 98 + 2
    assert strip.width == 5 * 98 + 2
    assert line.startswith("latentdebias sample")
    message, *pictures = draw(*{**CHOICE, "low": 0.9, "high": 0.1}.values())
    assert message.visible
    assert "is empty" in message.value
    assert pictures == [None, None, None]


@needs_gradio
def test_a_port_that_is_taken_is_code_2(tool, model_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = tool("play", "--model", model_dir, "--port", taken.getsockname()[1])
    assert result.code == 2
    assert "taken" in result.err


@needs_gradio
def test_the_page_shows_the_pictures_of_several_models_side_by_side(model_dir, other_model):
    page = play.build_page(play.open_player([model_dir, other_model()], None, "cpu"))
    draw = next(each.fn for each in page.fns.values() if each.api_name == "draw")
    _, *pictures, lines = draw(*CHOICE.values())
    assert [picture.width for picture in pictures] == [3 * 98 + 2, 5 * 98 + 2] * 2
    assert lines.count("latentdebias sample") == 2
    assert draw(*{**CHOICE, "low": 0.9, "high": 0.1}.values())[1:] == (None,) * 5


@pytest.fixture
def page_url(model_dir):
    command = [sys.executable, "-m", "latentdebias.cli.play", "--model", str(model_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.search(r"http://\S+", server.stdout.readline()).group()
        finally:
            server.terminate()


@pytest.mark.browser
@needs_gradio
def test_in_a_browser_a_class_is_chosen_drawn_and_a_mistake_explained(browser, page_url):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(page_url)
    page.get_by_label("Class", exact=True).click()
    page.get_by_role("option", name="7", exact=True).click()
    draw = page.get_by_role("button", name="Draw")
    draw.click()
    widths = []
    for name in ("grid-0", "trajectory-0"):
        picture = page.locator(f"#{name} img")
        picture.wait_for(timeout=60_000)
        widths.append(picture.evaluate("image => image.decode().then(() => image.naturalWidth)"))
    assert widths == [8 * 98 + 2] * 2
    assert "--classes 7 " in page.locator("#command textarea").input_value()
    page.get_by_label("number input for Guidance from").fill("1")
    page.keyboard.press("Tab")
    draw.click()
    page.locator("#message textarea").wait_for(timeout=60_000)
    assert "is empty" in page.locator("#message textarea").input_value()
    assert page.locator("#grid-0 img").count() == 0
    assert [url for url in requested if not url.startswith((page_url, "data:", "blob:"))] == []

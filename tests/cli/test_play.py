"""The page of `latentdebias play`: what it draws, the page itself where Gradio is there, and once in a real browser."""

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

from latentdebias.commands import play
from latentdebias.errors import UserError

ROOT = Path(__file__).parents[2]
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not installed")
CHOICE = {"chosen": 8, "count": 3, "guidance": 2.5, "low": 0.1, "high": 0.9, "sampler": "ddim", "steps": 5, "seed": 4}


@pytest.fixture
def player(model_dir):
    return play.open_player(model_dir, None, "cpu")


def test_the_command_shown_draws_the_same_pictures(tool, player, tmp_path):
    grid, strip, line = player.draw(**CHOICE)
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("latentdebias", "sample")
    arguments[arguments.index("--out") + 1] = tmp_path / "out"
    result = tool("sample", *arguments)
    assert result.code == 0, result.err
    drawn = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "out" / "images" / "0007").iterdir())]
    shown = np.asarray(grid)[2:-2:3, 2:-2]
    for index, image in enumerate(drawn):
        assert np.array_equal(shown[:, index * 98 : index * 98 + 96 : 3], image)
    assert len(drawn) == 3
    assert np.array_equal(np.asarray(strip), np.asarray(Image.open(tmp_path / "out" / "trajectory.png")))


def test_all_classes_are_drawn_in_turn(player):
    grid, _, line = player.draw(**{**CHOICE, "chosen": 0, "count": 10})
    assert "--classes" not in line
    assert grid.size == (8 * 98 + 2, 2 * 98 + 2)


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
    player = play.Player(Path("model"), None, None)
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
    for name in ("grid", "trajectory"):
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
    assert page.locator("#grid img").count() == 0
    assert [url for url in requested if not url.startswith((page_url, "data:", "blob:"))] == []

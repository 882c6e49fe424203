"""`latentdebias play`: a local page to draw with a model and see how the pictures come about."""

import argparse
import html
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from latentdebias.devices import open_device
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import ImageSampler, grid_image, labels_in_turn
from latentdebias.drawing.trajectory import ROWS, Trajectory
from latentdebias.errors import UserError, command, pip_install
from latentdebias.models.model_directory import LoadedModel, load_model
from latentdebias.registry import load_plugins, validate
from latentdebias.sampling import SAMPLERS, DrawOptions

if TYPE_CHECKING:
    import gradio

DEMO_MODEL = Path("demo/digits_debias/model")
ALL_CLASSES = "all"
GRID_COLUMNS = 8
MOST_IMAGES, MOST_STEPS, MOST_GUIDANCE = 64, 250, 10
# Fonts that every machine has: the theme's own would be fetched.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def serve(arguments: argparse.Namespace) -> None:
    """Serve the page until it is ended by Ctrl-C."""
    load_plugins(())
    gr = import_gradio()
    page = build_page(open_player(arguments.model or DEMO_MODEL, arguments.vae, arguments.device))
    try:
        _, url, _ = page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            theme=gr.themes.Default(**FONTS),
            footer_links=[],
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError):
        raise UserError(
            f"The page cannot be served at --host {arguments.host} --port {arguments.port or 'from 7860 on'}: taken, "
            f"or no address of this machine. Choose another, or leave both out."
        ) from None
    print(f"Open {url}   Ctrl-C ends it.", flush=True)
    page.block_thread()


def import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError:
        raise UserError(f"The page is made with Gradio, which is not installed: {pip_install('play')}") from None
    return gradio


def open_player(directory: Path, vae: str | None, device: str | None) -> "Player":
    if directory == DEMO_MODEL and not directory.exists():
        raise UserError(
            f"There is no model of the demo at {directory}: {command('demo')} trains it, or name another: --model DIR."
        )
    model = load_model(directory, open_device(device))
    return Player(directory, model, model.image_sampler(vae), vae)


@dataclass(frozen=True)
class Player:
    """The model behind the page, which draws images as the page's controls say."""

    directory: Path
    model: LoadedModel
    sampler: ImageSampler
    vae: str | None = None

    @property
    def classes(self) -> list[str]:
        config = self.model.config
        return config.class_names or [str(label) for label in range(config.num_classes)]

    @property
    def samplers(self) -> list[str]:
        return [name for name in SAMPLERS.names() if _suits(name, self.model.diffusion)]

    def draw(
        self,
        chosen: int,
        count: int,
        guidance: float,
        low: float,
        high: float,
        sampler: str,
        steps: int,
        seed: int,
    ) -> tuple[Image.Image, Image.Image, str]:
        """Draw `count` images; returns their grid, the strip of their trajectory, and the command that draws the same.

        `chosen` is 0 for all classes, else the number of a class plus 1. `low` and `high` are the ends of the guidance
        interval, from 0 (data) to 1 (noise). Raises `UserError` for bad options, as `latentdebias sample` does.
        """
        # Numbers as text, for `latentdebias sample` gets them from its command line as text, too.
        given: dict[str, Any] = {"sampler": sampler, "steps": str(steps), "seed": str(seed)}
        guided = {"scale": str(guidance), "interval": (str(low), str(high))}
        options = validate(DrawOptions, {**given, "guidance": guided}, "the page")
        classes = [chosen - 1] if chosen else list(range(max(len(self.classes), 1)))
        trajectory = Trajectory(options.steps)
        watched = replace(self.sampler, observe=trajectory)
        images = torch.cat(list(watched.draw(labels_in_turn(classes, count), options)))
        words = {"model": str(self.directory), "num": str(count), "guidance": str(guidance), **given}
        words["guidance-interval"] = f"{low},{high}"
        if chosen:
            words["classes"] = self._spelled(chosen - 1)
        if self.vae:
            words["vae"] = self.vae
        return grid_image(images, GRID_COLUMNS), trajectory.strip(self.sampler.pixels), sample_command(words)

    def _spelled(self, label: int) -> str:
        """A class as written in `--classes`: its name, or its number where the name has a comma."""
        name = self.classes[label]
        return str(label) if "," in name else name


def sample_command(options: dict[str, str]) -> str:
    """The command line of `latentdebias sample` with these options."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return f"{command('sample')} {shlex.join([*words, '--trajectory', '--out', 'samples'])}"


def _suits(sampler: str, diffusion: Diffusion) -> bool:
    try:
        SAMPLERS.build(sampler).check(diffusion, steps=1)
    except UserError:
        return False
    return True


def build_page(player: Player) -> "gradio.Blocks":
    """The Gradio page: controls on the left, the drawn images on the right."""
    gr = import_gradio()
    with gr.Blocks(title="latentdebias", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"### {html.escape(str(player.directory))}, step {player.model.config.step}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                controls = _controls(gr, player)
                button = gr.Button("Draw", variant="primary")
            with gr.Column(scale=3):
                message = gr.Textbox(label="Not drawn", visible=False, elem_id="message")
                grid = _picture(gr, "Images", "grid")
                strip = _picture(gr, f"Estimates of x0 of the first {ROWS}", "trajectory")
                line = gr.Textbox(label="The same by command", buttons=["copy"], lines=2, elem_id="command")
        outputs = [message, grid, strip, line]
        button.click(_with_message(gr, player.draw), controls, outputs, api_name="draw", show_progress_on=grid)
    return page


def _controls(gr: Any, player: Player) -> list[Any]:
    """The input components, one for each parameter of `Player.draw`, in the same order."""
    defaults = DrawOptions()
    guided = bool(player.classes)
    low, high = defaults.guidance.interval
    scale = defaults.guidance.scale if guided else 1
    return [
        gr.Dropdown([ALL_CLASSES, *player.classes], type="index", label="Class", visible=guided),
        gr.Slider(1, MOST_IMAGES, GRID_COLUMNS, step=1, precision=0, label="Images"),
        gr.Slider(0, MOST_GUIDANCE, scale, step=0.1, label="Guidance", visible=guided),
        gr.Slider(0, 1, low, step=0.05, label="Guidance from", info="0: data", visible=guided),
        gr.Slider(0, 1, high, step=0.05, label="Guidance to", info="1: noise", visible=guided),
        gr.Dropdown(player.samplers, value=SAMPLERS.name_of(defaults.sampler), label="Sampler"),
        gr.Slider(1, MOST_STEPS, defaults.steps, step=1, precision=0, label="Steps"),
        gr.Number(defaults.seed, precision=0, label="Seed"),
    ]


def _picture(gr: Any, title: str, elem_id: str) -> Any:
    # Gradio would put a label of the image itself on top of the picture.
    gr.Markdown(title)
    return gr.Image(show_label=False, format="png", buttons=["download", "fullscreen"], elem_id=elem_id)


def _with_message(gr: Any, draw: Callable[..., tuple]) -> Callable[..., tuple]:
    """A function that returns the page's message box, then what `draw` returns.

    The box is hidden; where `draw` raises `UserError`, it shows the message, and None stands for each of the others.
    """

    def draw_or_say_why(*values: Any) -> tuple:
        try:
            return gr.Textbox(visible=False), *draw(*values)
        except UserError as error:
            return gr.Textbox(str(error), visible=True), None, None, None

    return draw_or_say_why

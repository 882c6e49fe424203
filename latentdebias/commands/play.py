"""`latentdebias play`: a local page to draw with models, side by side, and see how the pictures come about."""

import argparse
import html
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from latentdebias.analysis.inputs import Inputs, LabelledModel
from latentdebias.devices import open_device
from latentdebias.diffusion import Diffusion
from latentdebias.drawing.image_sampler import ImageSampler, grid_image, labels_in_turn
from latentdebias.drawing.trajectory import ROWS, Trajectory
from latentdebias.errors import UserError, command, pip_install
from latentdebias.registry import load_plugins, validate
from latentdebias.sampling import SAMPLERS, DrawOptions

if TYPE_CHECKING:
    import gradio

DEMO_MODEL = Path("demo/digits_debias/model")
ALL_CLASSES = "all"
GRID_COLUMNS = 8
COLUMNS_SIDE_BY_SIDE = 4
MOST_IMAGES, MOST_STEPS, MOST_GUIDANCE = 64, 250, 10
# Fonts that every machine has: the theme's own would be fetched.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def serve(arguments: argparse.Namespace) -> None:
    """Serve the page until it is ended by Ctrl-C."""
    load_plugins(())
    gr = import_gradio()
    page = build_page(open_player(arguments.model or [DEMO_MODEL], arguments.vae, arguments.device))
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


def open_player(directories: Sequence[Path], vae: str | None, device: str | None) -> "Player":
    """The models, which draw in the order given; `UserError` where one is missing or has other latents or classes."""
    if DEMO_MODEL in directories and not DEMO_MODEL.exists():
        raise UserError(
            f"There is no model of the demo at {DEMO_MODEL}: {command('demo')} trains it, or name another: --model DIR."
        )
    inputs = Inputs(tuple(directories), device=open_device(device), vae=vae)
    return Player(inputs.models, inputs.image_sampler, vae)


@dataclass(frozen=True)
class Drawn:
    """What one model drew: a grid of images, the strip of their trajectory, and the command that draws the same."""

    grid: Image.Image
    strip: Image.Image
    command: str


@dataclass(frozen=True)
class Player:
    """The models behind the page, which draw images as the page's controls say, all from the same noise."""

    models: Sequence[LabelledModel]
    sampler: ImageSampler
    vae: str | None = None

    @property
    def classes(self) -> list[str]:
        config = self.models[0].model.config
        return config.class_names or [str(label) for label in range(config.num_classes)]

    @property
    def samplers(self) -> list[str]:
        """The samplers that suit the schedules of all models."""
        diffusions = [each.model.diffusion for each in self.models]
        return [name for name in SAMPLERS.names() if all(_suits(name, diffusion) for diffusion in diffusions)]

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
    ) -> list[Drawn]:
        """Draw `count` images with each model.

        `chosen` is 0 for all classes, else the number of a class plus 1. `low` and `high` are the ends of the guidance
        interval, from 0 (data) to 1 (noise). Raises `UserError` for bad options, as `latentdebias sample` does.
        """
        # Numbers as text, for `latentdebias sample` gets them from its command line as text, too.
        given: dict[str, Any] = {"sampler": sampler, "steps": str(steps), "seed": str(seed)}
        guided = {"scale": str(guidance), "interval": (str(low), str(high))}
        options = validate(DrawOptions, {**given, "guidance": guided}, "the page")
        classes = [chosen - 1] if chosen else list(range(max(len(self.classes), 1)))
        words = {"num": str(count), "guidance": str(guidance), **given, "guidance-interval": f"{low},{high}"}
        if chosen:
            words["classes"] = self._spelled(chosen - 1)
        if self.vae:
            words["vae"] = self.vae
        labels = labels_in_turn(classes, count)
        numbered = [f"samples/{number}" for number in range(1, len(self.models) + 1)]
        outs = numbered if len(self.models) > 1 else ["samples"]
        return [
            self._drawn(each, labels, options, {"model": str(each.directory), **words, "out": out})
            for each, out in zip(self.models, outs, strict=True)
        ]

    def _drawn(self, each: LabelledModel, labels: Tensor, options: DrawOptions, words: dict[str, str]) -> Drawn:
        trajectory = Trajectory(options.steps)
        sampler = replace(self.sampler, model=each.model.latent_model, observe=trajectory)
        images = torch.cat(list(sampler.draw(labels, options)))
        columns = GRID_COLUMNS if len(self.models) == 1 else COLUMNS_SIDE_BY_SIDE
        return Drawn(grid_image(images, columns), trajectory.strip(sampler.pixels), sample_command(words))

    def _spelled(self, label: int) -> str:
        """A class as written in `--classes`: its name, or its number where the name has a comma."""
        name = self.classes[label]
        return str(label) if "," in name else name


def sample_command(options: dict[str, str]) -> str:
    """The command line of `latentdebias sample` with these options."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return f"{command('sample')} {shlex.join([*words, '--trajectory'])}"


def _suits(sampler: str, diffusion: Diffusion) -> bool:
    try:
        SAMPLERS.build(sampler).check(diffusion, steps=1)
    except UserError:
        return False
    return True


def build_page(player: Player) -> "gradio.Blocks":
    """The Gradio page: controls on the left, on the right a column for each model's images."""
    gr = import_gradio()
    with gr.Blocks(title="latentdebias", analytics_enabled=False, fill_width=True) as page, gr.Row():
        with gr.Column(scale=1, min_width=280):
            controls = _controls(gr, player)
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3):
            message = gr.Textbox(label="Not drawn", visible=False, elem_id="message")
            with gr.Row():
                pictures = [_pictures(gr, each, number) for number, each in enumerate(player.models)]
            lines = gr.Textbox(label="The same by command", buttons=["copy"], lines=2, elem_id="command")
        outputs = [message, *(part for pair in pictures for part in pair), lines]
        draw = _with_message(gr, player.draw, len(outputs) - 1)
        button.click(draw, controls, outputs, api_name="draw", show_progress_on=[grid for grid, _ in pictures])
    return page


def _pictures(gr: Any, each: LabelledModel, number: int) -> tuple[Any, Any]:
    """A column with the name of model `number`, its images, and the trajectory of the first of them."""
    with gr.Column(min_width=320):
        gr.Markdown(f"### {html.escape(each.label)}\n{html.escape(str(each.directory))}, step {each.model.config.step}")
        grid = _picture(gr, "Images", f"grid-{number}")
        return grid, _picture(gr, f"Estimates of x0 of the first {ROWS}", f"trajectory-{number}")


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


def _with_message(gr: Any, draw: Callable[..., list[Drawn]], outputs: int) -> Callable[..., tuple]:
    """A function that returns the page's message box, then the pictures that `draw` returns and their commands.

    The box is hidden; where `draw` raises `UserError`, it shows the message, and None stands for each of the other
    `outputs`.
    """

    def draw_or_say_why(*values: Any) -> tuple:
        try:
            drawn = draw(*values)
        except UserError as error:
            return gr.Textbox(str(error), visible=True), *[None] * outputs
        pictures = [picture for each in drawn for picture in (each.grid, each.strip)]
        return gr.Textbox(visible=False), *pictures, "\n".join(each.command for each in drawn)

    return draw_or_say_why

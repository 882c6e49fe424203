from types import SimpleNamespace

import torch
from PIL import Image
from torch import nn

from latentdebias import Diffusion
from latentdebias.sampling import LatentModel, Network
from latentdebias.training.hooks.sample_grid import SampleGrid, SamplingOptions


class WhiteSampler:
    model = LatentModel(Network(nn.Identity(), Diffusion()), (3, 96, 96), 12)

    def load_weights(self, weights):
        pass

    def draw(self, labels, options, batches):
        yield torch.full((len(labels), 3, 96, 96), 255, dtype=torch.uint8)


def draw_grid(tmp_path, class_names):
    """One grid, which the log must have been shown."""
    shown = []
    run = SimpleNamespace(
        run_dir=tmp_path,
        manifest=SimpleNamespace(class_names=class_names),
        open_image_sampler=WhiteSampler,
        log=SimpleNamespace(write_image=lambda *what: shown.append(what)),
    )
    SampleGrid(SamplingOptions(per_class=3), run)(7, {})
    [(name, step, path)] = shown
    assert (name, step, path) == ("samples", 7, tmp_path / "samples" / "step-00000007.png")
    return Image.open(path)


def test_ten_classes_stand_beside_their_names(tmp_path):
    grid = draw_grid(tmp_path, [f"class {number}" for number in range(12)])
    assert grid.height == 10 * 98 + 2
    strip = grid.crop((0, 0, grid.width - 3 * 98 - 2, grid.height)).convert("L")
    for row in range(10):
        assert strip.crop((0, row * 98, strip.width, (row + 1) * 98)).getextrema()[0] < 128


def test_without_names_there_are_only_tiles(tmp_path):
    assert draw_grid(tmp_path, []).size == (3 * 98 + 2, 10 * 98 + 2)

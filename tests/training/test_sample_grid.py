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

    def draw(self, labels, options):
        yield torch.full((len(labels), 3, 96, 96), 255, dtype=torch.uint8)


def test_ten_classes_stand_beside_their_names(tmp_path):
    names = [f"class {number}" for number in range(12)]
    shown = []
    options = SamplingOptions(per_class=3)
    SampleGrid(tmp_path, WhiteSampler(), options, names, lambda *what: shown.append(what))(7, {})
    assert shown == [(7, tmp_path / "step-00000007.png")]
    grid = Image.open(tmp_path / "step-00000007.png")
    assert grid.height == 10 * 98 + 2
    strip = grid.crop((0, 0, grid.width - 3 * 98 - 2, grid.height)).convert("L")
    for row in range(10):
        assert strip.crop((0, row * 98, strip.width, (row + 1) * 98)).getextrema()[0] < 128


def test_without_names_there_are_only_tiles(tmp_path):
    SampleGrid(tmp_path, WhiteSampler(), SamplingOptions(per_class=3), [], lambda step, path: None)(7, {})
    assert Image.open(tmp_path / "step-00000007.png").size == (3 * 98 + 2, 10 * 98 + 2)

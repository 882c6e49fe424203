"""The worked examples of CONTRIBUTING.md: a weighting, a backbone, a metric and a hook, as they stand there."""

import json

import pytest
import torch
from doc_blocks import ROOT, blocks

from latentdebias import Diffusion
from latentdebias.backbones import BACKBONES
from latentdebias.evaluation.extractors import FeatureSet
from latentdebias.evaluation.metrics import METRICS


@pytest.fixture
def examples(own_parts):
    """What the four blocks define and register; forgotten afterwards."""
    known = {"__name__": "my_examples"}
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        if block.language == "python":
            exec(compile(block.text, "CONTRIBUTING.md", "exec", dont_inherit=True), known)
    return known


def test_the_weighting_weighs_and_the_backbone_learns_by_it(examples):
    diffusion = Diffusion("cosine", "v", {"name": "my_weighting", "gamma": 2.0})
    t = torch.tensor([100, 900])
    s = diffusion.snr(t)
    torch.testing.assert_close(diffusion.loss_weight(t), 1 / (1 + 2 * s) / (1 + s))
    for name in ("my_net", "my_net_l"):
        network = BACKBONES.build(name).build(4, 4, num_classes=10)
        diffusion.loss(network, torch.randn(2, 4, 4, 4), y=torch.tensor([0, 10])).mean().backward()
        assert all(weight.grad is not None for weight in network.parameters())


def test_the_metric_tells_two_sets_apart(examples):
    same, other = (FeatureSet(torch.full((5, 3), value), torch.zeros(5, 0), None, None, "") for value in (0.0, 2.0))
    metric = METRICS.build("my_metric")
    assert metric.measure(same, same) == {"my_metric": 0}
    assert metric.measure(other, same)["my_metric"] == pytest.approx(12**0.5)


def test_the_hook_logs(examples, make_run, tmp_path):
    make_run("hooks=[{name: weight_norm, every: 2}]").train()
    rows = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if row.get("weight_norm", 0) > 0] == [2, 4]

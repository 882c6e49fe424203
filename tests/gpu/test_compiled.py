"""Compiled and checkpointed blocks take the steps of plain ones, and are compiled whole."""

import pytest
import torch
from run_files import in_folder, losses_of, stage

VIT = "model={name: min_snr_vit, width: 32, depth: 3, heads: 2, patch_size: 1}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_compiled_blocks_train_as_plain_ones(make_run, tmp_path, number, checkpointing, precision):
    same = [VIT, stage(number), f"training.precision={precision}"]
    plain = make_run(in_folder(tmp_path, "plain"), *same)
    plain.train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    changes = ["training.compile=blocks", f"training.activation_checkpointing={checkpointing}"]
    compiled = make_run(in_folder(tmp_path, "compiled"), *same, *changes)
    compiled.train()
    # A compiled block keeps in fp32 what the plain one rounds to bf16 between two operations.
    assert losses_of(compiled) == pytest.approx(losses_of(plain), rel=1e-3 if precision == "fp32" else 3e-2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]

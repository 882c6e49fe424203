"""What `training.compile: auto` chooses by the machine, and the attention kernels a run may use."""

import json

import pytest
import torch
from torch import nn

from latentdebias.backbones import BACKBONES
from latentdebias.errors import UserError
from latentdebias.training import compiling
from latentdebias.training.compiling import KERNELS, allow_attention, what_to_compile

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DIT = BACKBONES.build({"name": "dit", "width": 32, "depth": 2, "heads": 2}).build(4, 4, 10)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with Triton and a C compiler."""
    monkeypatch.setattr(compiling, "has_triton", lambda: True)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.fixture
def kernels():
    """Every kernel is allowed again afterwards."""
    yield
    allow_attention("auto")


def test_blocks_are_compiled_where_triton_has_code():
    assert what_to_compile("auto", DIT, GPU, False, None)[0] == "blocks"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": CPU}, "on a CPU"),
        ({"deterministic": True}, "deterministic"),
        ({"backbone": nn.Linear(2, 2)}, "Linear names no repeated blocks"),
        ({"why_not": "gives NaN"}, "gives NaN"),
    ],
)
def test_what_is_against_it_is_said(change, reason):
    given = {"backbone": DIT, "device": GPU, "deterministic": False, "why_not": None, **change}
    where, found = what_to_compile("auto", **given)
    assert where == "none"
    assert reason in found
    assert what_to_compile("blocks", **given)[0] == "blocks"


def test_a_machine_without_triton_or_a_compiler_compiles_nothing(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert "C compiler" in what_to_compile("auto", DIT, GPU, False, None)[1]
    monkeypatch.setattr(compiling, "has_triton", lambda: False)
    assert "Triton is not installed" in what_to_compile("auto", DIT, GPU, False, None)[1]


def test_a_run_trains_alike_with_either_kernel_and_says_what_it_compiles(make_run, tmp_path, kernels, capsys):
    def losses(kernel):
        run = make_run(f"run_dir={tmp_path / kernel}", f"training.attention={kernel}")
        run.train()
        return [json.loads(line)["loss"] for line in (run.run_dir / "log.jsonl").read_text().splitlines()]

    expected = losses("auto")
    assert "compiled: none (the run is on a CPU" in capsys.readouterr().out
    assert losses("math") == pytest.approx(expected, rel=1e-5)
    assert not torch.backends.cuda.flash_sdp_enabled()


def test_kernels_are_allowed_one_by_one(kernels):
    allow_attention("math")
    assert torch.backends.cuda.math_sdp_enabled()
    assert not torch.backends.cuda.flash_sdp_enabled()
    allow_attention("auto")
    assert torch.backends.cuda.flash_sdp_enabled()
    assert set(KERNELS) == {"flash", "cudnn", "efficient", "math"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_kernel_for_gpus_is_refused_on_a_cpu():
    with pytest.raises(UserError, match=r"training\.attention is 'cudnn'"):
        allow_attention("cudnn")

"""A run trains in its own precision, whatever torch was set to before."""

import pytest
import torch

from latentdebias.precision import computing_in


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_run_sets_the_precision_that_it_trains_in(make_run, precision):
    # torch's own settings, which are neither fp32 nor tf32.
    with computing_in("fp32"):
        torch.backends.cudnn.allow_tf32 = True
        make_run(f"training.precision={precision}")
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert flags == (precision == "tf32", precision == "tf32")


def test_tf32_is_fp32_on_a_cpu(make_run, tmp_path):
    trained = []
    for precision in ("fp32", "tf32"):
        with computing_in("fp32"):
            run = make_run(f"training.precision={precision}", f"run_dir={tmp_path / precision}", "training.steps=2")
            run.train()
        trained.append(run.zero_state.gathered_weights())
    assert all(torch.equal(weight, trained[1][name]) for name, weight in trained[0].items())

"""Updates at every ZeRO stage, by plain torch on the CPU and by DeepSpeed on the device."""

import pytest
import torch
from plain_training import adamw, first_adamw_update, gradients_of_the_first_batch
from run_files import STAGES, log_of, stage

# The update depends smoothly on the gradient, whose last bits differ between devices.
EPS = 1e-2
VIT = "model={name: min_snr_vit, width: 32, depth: 2, heads: 2, patch_size: 1}"
OPTIMIZER_ON_CPU = "deepspeed.zero_optimization.offload_optimizer.device=cpu"
WEIGHTS_ON_CPU = "deepspeed.zero_optimization.offload_param.device=cpu"
PLACES = [
    *((number, ()) for number in STAGES),
    *((number, (OPTIMIZER_ON_CPU,)) for number in (1, 2, 3)),
    (3, (OPTIMIZER_ON_CPU, WEIGHTS_ON_CPU)),
]
# Of the change of all weights together; bf16 keeps 8 bits of each number.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.05}


def distance(some, others):
    """The norm of the difference of two sets of tensors, as a share of the norm of the second set."""
    differences = torch.cat([(some[name] - others[name]).flatten() for name in others])
    return float(differences.norm() / torch.cat([other.flatten() for other in others.values()]).norm())


@pytest.mark.parametrize(
    ("number", "places", "precision"),
    [*((*place, "fp32") for place in PLACES), *((number, (), "bf16") for number in STAGES)],
)
def test_the_first_update_is_adamws(make_run, device, number, places, precision):
    options = ["training.steps=1", "training.grad_clip=0", f"training.precision={precision}"]
    run = make_run(VIT, adamw(EPS), stage(number), *options, *places)
    assert run.engine.device == device
    before = run.zero_state.gathered_weights()
    gradients = gradients_of_the_first_batch(run, before)
    run.train()
    after = run.zero_state.gathered_weights()
    changes = {name: after[name].double() - before[name] for name in gradients}
    expected = {name: first_adamw_update(before[name], gradients[name], EPS) - before[name] for name in gradients}
    assert distance(changes, expected) < TOLERANCES[precision]


@pytest.mark.parametrize("number", STAGES)
def test_an_update_with_nan_changes_nothing(make_run, device, number):
    """The last update of three is skipped: weights and averages are those of two."""
    run = make_run(VIT, stage(number), "training.steps=3", "training.precision=bf16", "ema.decays=[0.5]")
    assert run.engine.device == device
    backward, step, weights, averages = run.engine.backward, run.engine.step, [], []

    def poisoned(loss):
        backward(loss * float("nan") if len(weights) == 2 else loss)

    def recorded():
        step()
        weights.append([partition.detach().cpu().clone() for partition in run.zero_state.partitions])

    run.engine.backward, run.engine.step = poisoned, recorded
    update = run.ema.update

    def averaged(number):
        update(number)
        averages.append([average.detach().cpu().clone() for average in run.ema.averages["0.5"]])

    run.ema.update = averaged
    run.train()
    first, second, third = weights
    assert not all(map(torch.equal, first, second))
    assert all(map(torch.equal, second, third))
    assert [row["skipped_updates"] for row in log_of(run)] == [0, 0, 1]
    assert run.engine.skipped() == (1, 1)
    # The average moves towards the weights that stayed.
    for last, before, weight in zip(averages[2], averages[1], third, strict=True):
        torch.testing.assert_close(last, before.lerp(weight, 0.5))


@pytest.mark.parametrize("number", [0, 3])
def test_deterministic_training_gives_the_same_bits_twice(make_run, tmp_path, device, number, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = ["training.deterministic=true", "training.precision=bf16", stage(number)]
    weights = []
    try:
        for name in ("once", "again"):
            run = make_run(f"run_dir={tmp_path / name}", *options)
            assert run.engine.device == device
            run.train()
            weights.append(run.zero_state.gathered_weights())
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

import pytest
import torch

from latentdebias import Diffusion
from latentdebias.diffusion import SCHEDULES, TARGETS, NoiseLevel

SCHEDULE_SPECS = [
    *({"name": name} for name in ("linear", "scaled_linear", "cosine", "sigmoid", "flow", "edm", "trig", "laplace")),
    {"name": "linear", "zero_terminal_snr": True},
    {"name": "cosine", "zero_terminal_snr": True},
    {"name": "flow", "shift": 3.0},
]
SINGULAR = "its SNR ends at 0"


def diffusions():
    for schedule in SCHEDULE_SPECS:
        for target in TARGETS.names():
            if target == "eps" and (schedule["name"] in ("flow", "trig") or "zero_terminal_snr" in schedule):
                continue
            yield pytest.param(schedule, target, id=f"{schedule}-{target}")


def some_timesteps(diffusion: Diffusion, count: int) -> torch.Tensor:
    return diffusion.schedule.from_unit(torch.linspace(0.01, 0.99, count))


@pytest.mark.parametrize(("schedule", "target"), list(diffusions()))
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (32, 32, 32, 32), (1, 7)])
def test_x0_and_eps_come_back_from_the_target(schedule, target, shape):
    d = Diffusion(schedule, target)
    x0, eps = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    t = some_timesteps(d, shape[0])
    z, y = d.add_noise(x0, eps, t), d.target_of(x0, eps, t)
    torch.testing.assert_close(d.to_x0(y, z, t), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(d.to_eps(y, z, t), eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("schedule", "target"), list(diffusions()))
@pytest.mark.parametrize("to", TARGETS.names())
def test_convert_gives_the_other_target(schedule, target, to):
    d = Diffusion(schedule, target)
    x0, eps = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    t = some_timesteps(d, 5)
    z = d.add_noise(x0, eps, t)
    expected = TARGETS.build(to).of(x0, eps, d.schedule.level(t, torch.float64).over_batch(x0))
    torch.testing.assert_close(d.convert(d.target_of(x0, eps, t), z, t, to=to), expected, rtol=1e-6, atol=1e-6)


def test_square_batches_do_not_broadcast_over_the_image():
    """B = C = H = W: a (B,) scale that met the last axis would go unnoticed in shape alone."""
    d, side = Diffusion("linear", "v"), 16
    x0, eps = torch.ones(side, side, side, side), torch.zeros(side, side, side, side)
    t = torch.arange(side) * 60
    z = d.add_noise(x0, eps, t)
    for i in range(side):
        assert (z[i] == d.alpha(t)[i]).all()


def test_a_timestep_of_the_wrong_shape_is_refused():
    d, x0 = Diffusion(), torch.randn(4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"t must have shape \(4,\)"):
        d.add_noise(x0, x0, torch.tensor([5]))


@pytest.mark.parametrize("schedule", ["flow", {"name": "linear", "zero_terminal_snr": True}])
def test_eps_is_refused_where_snr_reaches_zero(schedule):
    with pytest.raises(ValueError, match=SINGULAR):
        Diffusion(schedule, "eps")


def test_published_coefficients():
    level = NoiseLevel(torch.tensor(0.6), torch.tensor(0.8))
    pairs = {name: tuple(float(c) for c in TARGETS.build(name).coefficients(level)) for name in TARGETS.names()}
    assert pairs == {
        "eps": (0, 1),
        "x0": (1, 0),
        "v": (pytest.approx(-0.8), pytest.approx(0.6)),
        "flow": (-1, 1),
        "edm": (pytest.approx(0.8 / 0.5 / 0.73**0.5), pytest.approx(-0.5 * 0.6 / 0.73**0.5)),
    }


def test_every_schedule_is_covered():
    assert {spec["name"] for spec in SCHEDULE_SPECS} | {"table"} == set(SCHEDULES.names())

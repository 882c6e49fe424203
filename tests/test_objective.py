"""Every recipe against its paper's loss, written here, and what is said of an objective."""

import warnings
from dataclasses import dataclass

import pytest
import torch

from latentdebias import Diffusion
from latentdebias.diffusion import WEIGHTINGS, Weighting
from latentdebias.errors import UserError
from latentdebias.objective import Objective, nearest_recipe, read_recipes

RECIPES = {recipe.name: recipe.objective.diffusion for recipe in read_recipes()}
B = 64
torch.manual_seed(0)
X0, EPS, OUTPUT = (torch.randn(B, 4, 4, 4, dtype=torch.float64) for _ in range(3))
UNIT = torch.linspace(0.02, 0.98, B, dtype=torch.float64)
STEPS = torch.linspace(5, 995, B).long()


def mean(error):
    return error.flatten(1).mean(1)


def scale(values):
    return values[:, None, None, None]


def alpha_bar_of(name):
    if name == "linear":
        return (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[STEPS]
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    f = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - (1 - f[1:] / f[:-1]).clamp(max=0.999)).cumprod(0)[STEPS]


def ddpm(weight):
    """|eps_hat - eps|^2 with a weight of SNR, on the linear schedule."""
    snr = alpha_bar_of("linear") / (1 - alpha_bar_of("linear"))
    return STEPS, mean((OUTPUT - EPS) ** 2) * weight(snr)


def min_snr():
    snr = alpha_bar_of("cosine") / (1 - alpha_bar_of("cosine"))
    return STEPS, mean((OUTPUT - X0) ** 2) * snr.clamp(max=5)


def flow():
    return UNIT, mean((OUTPUT - (EPS - X0)) ** 2)


def lightningdit():
    velocity = EPS - X0
    cosine = (OUTPUT * velocity).sum(1) / (OUTPUT.norm(dim=1) * velocity.norm(dim=1))
    return UNIT, mean((OUTPUT - velocity) ** 2) + (1 - cosine).flatten(1).mean(1)


def jit():
    """(x_hat - z) / (1 - t) against (x - z) / (1 - t), t = 1 at data there: the error of x over max(sigma, 0.05)."""
    return UNIT, mean(((OUTPUT - X0) / scale(UNIT.clamp(min=0.05))) ** 2)


def edm():
    """lambda(s) |D - x|^2 with D = c_skip x + c_out F (Karras et al. 2022, table 1), the network's output being F."""
    s, data = 0.002 ** (1 - UNIT) * 80.0**UNIT, 0.5
    noisy = X0 + scale(s) * EPS
    c_skip, c_out = data**2 / (s**2 + data**2), s * data / (s**2 + data**2).sqrt()
    denoised = scale(c_skip) * noisy + scale(c_out) * OUTPUT
    return UNIT, (s**2 + data**2) / (s * data) ** 2 * mean((denoised - X0) ** 2)


def sid2():
    """-1/2 dl/dt e^b sigmoid(l - b) |x_hat - x|^2 with l = -2 log tan(pi t / 2) and v predicted."""
    log_snr = -2 * torch.log(torch.tan(torch.pi / 2 * UNIT))
    alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
    z = scale(alpha) * X0 + scale(sigma) * EPS
    x_hat = scale(alpha) * z - scale(sigma) * OUTPUT
    rate = 2 * torch.pi / torch.sin(torch.pi * UNIT)
    b = torch.tensor(-3.0, dtype=torch.float64)
    return UNIT, 0.5 * rate * b.exp() * torch.sigmoid(log_snr - b) * mean((x_hat - X0) ** 2)


def vdm():
    """1/2 d gamma/dt |eps_hat - eps|^2 with gamma = -log SNR from -13.3 to 5."""
    return UNIT, 0.5 * 18.3 * mean((OUTPUT - EPS) ** 2)


PUBLISHED = {
    "dit": lambda: ddpm(torch.ones_like),
    "adm": lambda: ddpm(torch.ones_like),
    "p2": lambda: ddpm(lambda snr: 1 / (1 + snr)),
    "debias": lambda: ddpm(lambda snr: 1 / snr.sqrt()),
    "min_snr": min_snr,
    "sit": flow,
    "flow_matching": flow,
    "sd3": flow,
    "lightningdit": lightningdit,
    "jit": jit,
    "edm": edm,
    # Where u is 0, as at the start.
    "edm2": edm,
    "sid2": sid2,
    "vdm": vdm,
}


def test_every_recipe_is_compared():
    assert PUBLISHED.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_its_papers_loss(name):
    t, expected = PUBLISHED[name]()
    diffusion = RECIPES[name]
    output = torch.cat([OUTPUT] * diffusion.variance.outputs, dim=1)
    found = diffusion.loss_terms(lambda z, time: output, X0, t=t, eps=EPS)
    torch.testing.assert_close(
        (found.error + found.terms).double(), expected, rtol=1e-6 if name != "vdm" else 2e-5, atol=1e-9
    )


def test_sd3_and_lightningdit_draw_logit_normal_times_as_jit_does_with_more_noise():
    u = torch.tensor([0.5], dtype=torch.float64)
    for name, expected in {"sd3": 0.0, "lightningdit": 0.0, "jit": 0.8}.items():
        position = RECIPES[name].timesteps.positions(u, u, 1, RECIPES[name].schedule)
        assert torch.logit(position).item() == pytest.approx(expected)


def test_the_nearest_recipe_of_a_recipe_is_the_same_objective():
    for name, diffusion in RECIPES.items():
        found, distance = nearest_recipe(Objective(diffusion))
        assert distance < 1e-6
        assert found.objective.diffusion.spec() == diffusion.spec() or name in ("sit", "flow_matching")


def test_a_description_says_what_is_trained_and_what_differs_from_the_nearest_recipe():
    lines = Objective(Diffusion("linear", "v", {"name": "debias"})).describe()
    text = "\n".join(lines)
    assert "objective of recipe debias" in text
    assert "target: v here, eps there" in text
    row = next(line.split() for line in lines if line.strip().startswith("0.50"))
    weights = Diffusion("linear", "eps", "debias").loss_weight(torch.tensor([500]))
    assert float(row[2]) == pytest.approx(weights.item(), rel=5e-3)


def test_a_density_and_a_weighting_that_undo_each_other_are_named():
    """1 / the density of cosmap, as a weight, gives uniform times back; here by soft weights that nearly do."""
    plain = Diffusion("flow", "flow", "constant", "cosmap")
    assert Objective(plain).notes() == []
    undoing = Diffusion("linear", "v", {"name": "p2", "gamma": 0.0, "k": 1.0, "space": "v"}, "stratified")
    assert Objective(undoing).notes() == []
    nearly = Diffusion(
        "flow", "flow", {"name": "p2", "gamma": 0.0, "space": "flow"}, {"name": "beta", "a": 1.0, "b": 1.0}
    )
    assert "undo each other" in Objective(nearly).notes()[0]


def test_a_density_that_misses_the_schedule_is_named_and_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        narrow = Diffusion("linear", "eps", "constant", {"name": "laplace", "mu": 20.0})
    assert "laplace" in Objective(narrow).notes()[0]
    with pytest.raises(UserError, match="never draw"):
        Objective(narrow).check()
    for diffusion in RECIPES.values():
        assert Objective(diffusion).notes() == []


@pytest.mark.parametrize(
    ("schedule", "timesteps"),
    [("edm", {"name": "log_normal", "mean": 20.0}), ("trig", {"name": "laplace", "mu": -200.0})],
)
def test_a_density_beyond_the_ends_of_the_schedule_is_refused(schedule, timesteps):
    with pytest.raises(UserError, match="never draw"):
        Objective(Diffusion(schedule, "v", timesteps=timesteps)).check()


def test_a_schedule_of_one_timestep_trains_and_is_described():
    schedule = {"name": "linear", "num_timesteps": 1, "beta_range": "diffusers"}
    objective = Objective(Diffusion(schedule))
    objective.check()
    assert objective.notes() == []
    assert "log SNR nan" in objective.summary()
    assert "one timestep" in objective.describe()[-1]


def test_what_is_learned_is_not_described_as_known():
    learned = Objective(Diffusion("edm", "edm", "edm2_uncertainty", "log_normal"))
    assert "before what is learned" in learned.summary()
    assert "before what is learned" not in Objective(Diffusion("edm", "edm", "edm", "log_normal")).summary()


def test_a_part_of_ones_own_with_a_field_without_default_is_described(monkeypatch):
    monkeypatch.setattr(WEIGHTINGS, "_entries", dict(WEIGHTINGS._entries))

    @WEIGHTINGS.register("sloped")
    @dataclass(frozen=True, kw_only=True)
    class Sloped(Weighting):
        slope: float

        def weight(self, level):
            return level.snr**self.slope

    line = Objective(Diffusion("linear", "eps", {"name": "sloped", "slope": -0.25})).summary()
    assert "{name: sloped, slope: -0.25}" in line

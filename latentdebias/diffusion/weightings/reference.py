"""The text of `docs/weightings.md`: every weighting in every space, and what other codes call it.

The formulas are Python in s, the SNR, so that a test evaluates each against the weighting itself.
"""

import warnings
from dataclasses import dataclass

import torch

from latentdebias.diffusion.process import Diffusion

# The lines of the page are as long as those of the other pages in docs/.
# ruff: noqa: E501
HEADER = """\
# Weightings, translated

A weighting is a function of the noise level on the squared error of *some* target. The same words, "min-SNR" or "debiased", mean different losses
in different codes, because a weight on eps is not a weight on v. Here each weighting is stated in the space of its paper and converted: it is one
loss under every target, schedule and code. With s the SNR, alpha^2 / sigma^2, a weight w on x0 is

| on eps | on x0 | on v | on the flow velocity eps - x0 | on EDM's F |
|---|---|---|---|---|
| w / s | w | w / (1 + s) | w / (1 + sqrt(s))^2 | w d^2 / (1 + d^2 s), d = sigma_data |

(v and F on a path that preserves variance.) What a run optimises is weight x density of the timesteps. `latentdebias describe --config FILE` states
both for a config of yours, and the published objective that is nearest; `latentdebias recipes` lists those; `latentdebias analyze curves --config FILE
--config OTHER` draws both, and says where two are one objective.

![weightings on the squared error of eps and of v, and their effective weights, on the linear schedule](weightings.png)

This page is written from the code: `python -m latentdebias.diffusion.weightings.reference > docs/weightings.md`, and the picture, at half its
size, by `latentdebias analyze curves --schedule linear --space eps,v`; a test holds both tables.

## Every weighting, in every space

With the default fields; the means are over uniform timesteps, on eps. F is EDM's with sigma_data 0.5.
"""
CODES_HEADER = """
## What other codes compute

Each line of YAML reproduces that code's weight exactly here, under the same target; g is its gamma.

| code and option | target | what it computes | here |
|---|---|---|---|
"""
FOOTER = """
Notes:

- diffusers' and SimpleTuner's `--snr_gamma` and kohya-ss' `--min_snr_gamma` are the paper's weighting under eps and v; so is OneTrainer's.
- kohya-ss' `--debiased_estimation_loss` under v is not the debiased loss: it is a constant weight on x0, but for its cap on s. OneTrainer's is a third
  one.
- Min-SNR's own code divides by s under v, where its paper has s + 1, and takes a name that it does not know for the weight 1 without a word.
- Debias' own code leaves 1 / sqrt(s) on whatever the network predicts; under x0 or v that is another objective than its paper's.
- In diffusers' SD3 scripts the position counts from noise to data: their `--logit_mean m` is `mean: -m` here. `mode` and `cosmap` are symmetric.
- kohya-ss' `--loss_type huber` and `smooth_l1` are `error: {name: pseudo_huber, form: huber}` and `form: smooth_l1`; its `--huber_schedule` is `schedule`.
- SpeeD (Wang et al. 2024) is here by its density, `timesteps: {name: speed, k: 5.0, tau: 0.7}`. Its code also multiplies the loss below tau by
  0.4 + 0.2 g, g the rate of sigma^2 scaled to 0 .. 1 over the schedule: that is no function of s, so it is no weighting here. It mirrors half of each
  batch at tau as well, by which the last part gets the share of `k: 10.4`.
- `--scale_v_pred_loss_like_noise_pred` caps s at 1000 first, which changes a weight by less than 0.1%.
"""


@dataclass(frozen=True)
class Row:
    """A weighting's formulas in s on eps, x0 and v, and its paper."""

    name: str
    on_eps: str
    on_x0: str
    on_v: str
    paper: str

    def formulas(self) -> dict[str, str]:
        """The formula in each space, by target's name; empty where there is none in s alone."""
        on_x0 = f"({self.on_x0})" if " " in self.on_x0 else self.on_x0
        flow, edm = f"{on_x0} / (1 + sqrt(s))**2", f"{on_x0} / (4 + s)"
        return {"eps": self.on_eps, "x0": self.on_x0, "v": self.on_v, "flow": flow, "edm": edm}


ROWS = (
    Row("snr", "1", "s", "s / (1 + s)", "the constant weight on eps: DDPM, Ho et al. 2020"),
    Row("inv_snr", "1 / s", "1", "1 / (1 + s)", "the constant weight on x0: Debias, appendix B"),
    Row("max_snr", "max(s, 1) / s", "max(s, 1)", "max(s, 1) / (1 + s)", "truncated SNR: Salimans & Ho 2022"),
    Row("min_snr", "min(s, 5) / s", "min(s, 5)", "min(s, 5) / (1 + s)", "Hang et al. 2023"),
    Row("soft_min_snr", "5 / (5 + s)", "5 * s / (5 + s)", "5 * s / ((5 + s) * (1 + s))", "Crowson et al. 2024"),
    Row(
        "sigmoid",
        "1 / (1 + s * exp(-2))",
        "s / (1 + s * exp(-2))",
        "s / ((1 + s * exp(-2)) * (1 + s))",
        "Kingma & Gao 2023",
    ),
    Row("p2", "1 / (1 + s)", "s / (1 + s)", "s / (1 + s)**2", "Choi et al. 2022"),
    Row("debias", "1 / sqrt(s)", "sqrt(s)", "sqrt(s) / (1 + s)", "Yu et al. 2023"),
    Row("edm", "(4 + s) / s", "4 + s", "(4 + s) / (1 + s)", "Karras et al. 2022"),
    Row(
        "cosmap",
        "2 * (1 + sqrt(s))**4 / (pi * s * (1 + s))",
        "2 * (1 + sqrt(s))**4 / (pi * (1 + s))",
        "2 * (1 + sqrt(s))**4 / (pi * (1 + s)**2)",
        "Esser et al. 2024",
    ),
    Row("sigma_sqrt", "(1 + sqrt(s))**4 / s", "(1 + sqrt(s))**4", "(1 + sqrt(s))**4 / (1 + s)", "diffusers"),
)
BY_SCHEDULE = {
    "constant": "1 on the network's own target: the baseline of each paper",
    "vlb": "beta^2 / ((1 - beta) sigma^2) on eps, of a discrete schedule: Debias, eq. 5 and 13",
    "elbo": "-1/2 d log s / dt on eps: the bound of continuous time, Kingma et al. 2021",
    "edm2_uncertainty": "that of `edm` over e^u, with u(s) learned and added to the loss: Karras et al. 2024",
    "pareto": "a weight on x0 for each of B bins of t, solved from their gradients every N steps: Hang et al. 2023, eq. 11",
    "edm_monotonic": "-1/2 d log s / dt N(log s; 2.4, 2.4^2) (1 + 4 / s) on eps, held at its peak below: Kingma & Gao 2023",
}
CODES = (
    ("diffusers, SimpleTuner `--snr_gamma g`", "eps", "min(s, g) / s", "{name: min_snr, gamma: g}"),
    ("the same, v prediction", "v", "min(s, g) / (1 + s)", "{name: min_snr, gamma: g}"),
    ("kohya-ss `--min_snr_gamma g`", "eps", "min(s, g) / s", "{name: min_snr, gamma: g}"),
    ("the same, `--v_parameterization`", "v", "min(s, g) / (1 + s)", "{name: min_snr, gamma: g}"),
    ("kohya-ss `--debiased_estimation_loss`", "eps", "1 / sqrt(min(s, 1000))", "kohya_debiased"),
    ("the same, `--v_parameterization`", "v", "1 / (1 + min(s, 1000))", "{name: kohya_debiased, v_max_snr: 1000.0}"),
    ("kohya-ss `--scale_v_pred_loss_like_noise_pred`", "v", "s / (1 + s)", "snr"),
    ("OneTrainer MIN_SNR_GAMMA", "eps", "min(s, g) / s", "{name: min_snr, gamma: g}"),
    ("the same, v prediction", "v", "min(s, g) / (1 + s)", "{name: min_snr, gamma: g}"),
    ("OneTrainer DEBIASED_ESTIMATION", "eps", "1 / sqrt(min(s, 1000))", "onetrainer_debiased"),
    ("the same, v prediction", "v", "1 / sqrt(min(s, 1000) + 1)", "onetrainer_debiased"),
    ("OneTrainer P2, gamma g", "eps", "(1 + s)**-g", "{name: p2, gamma: g}"),
    ("the same, v prediction", "v", "(2 + s)**-g", "{name: p2, k: 2.0, gamma: g, space: target}"),
    ("Min-SNR's code, `min_snr_5`", "eps", "min(s, 5) / s", "{name: min_snr, gamma: 5.0}"),
    ("the same, velocity", "v", "min(s, 5) / s", "{name: min_snr_over_snr, gamma: 5.0}"),
    ("Debias' code", "eps", "1 / sqrt(s)", "debias"),
    ("the same, predicting x0", "x0", "1 / sqrt(s)", "{name: debias, space: target}"),
    ("the same, predicting v", "v", "1 / sqrt(s)", "{name: debias, space: target}"),
    ("diffusers SD3 `--weighting_scheme sigma_sqrt`", "flow", "(1 + sqrt(s))**2", "sigma_sqrt"),
    ("diffusers SD3 `--weighting_scheme cosmap`", "flow", "2 * (1 + sqrt(s))**2 / (pi * (1 + s))", "cosmap"),
    ("diffusers SD3 `logit_normal`, `mode`, `none`", "flow", "1", "constant"),
)


def mean_on_eps(name: str, schedule: str) -> float:
    """The mean weight on the squared error of eps over all timesteps of a discrete schedule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Diffusion(schedule, "eps", name).loss_weight(torch.arange(1000)).double().mean().item()


def text() -> str:
    """The text of `docs/weightings.md`."""
    lines = [HEADER, "| weighting | on eps | on x0 | on v | on flow | on F | mean, linear | mean, cosine | paper |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in ROWS:
        formulas = " | ".join(f"`{formula}`" for formula in row.formulas().values())
        means = " | ".join(f"{mean_on_eps(row.name, schedule):.4g}" for schedule in ("linear", "cosine"))
        lines.append(f"| `{row.name}` | {formulas} | {means} | {row.paper} |")
    lines += ["", "Those that are no function of s alone:", ""]
    lines += [f"- `{name}`: {formula}" for name, formula in BY_SCHEDULE.items()]
    table = [f"| {code} | {target} | `{formula}` | `weighting: {here}` |" for code, target, formula, here in CODES]
    return "\n".join(lines) + "\n" + CODES_HEADER + "\n".join(table) + "\n" + FOOTER


if __name__ == "__main__":
    print(text(), end="")

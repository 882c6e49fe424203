import pytest
import torch
from draw_options import draw_options
from torch import nn

from latentdebias import Diffusion
from latentdebias.errors import UserError
from latentdebias.registry import validate
from latentdebias.sampling import Guidance, Guided, ModelFacts, Network, check_draw
from latentdebias.sampling.guided import rescale


class LabelIsTheAnswer(nn.Module):
    """Answers `scale` times the label, -1 without one; with `outputs` 2 also ten times that as variance values."""

    def __init__(self, scale=1.0, outputs=1):
        super().__init__()
        self.scale, self.outputs, self.batches, self.times = scale, outputs, [], []

    def forward(self, z, t, y=None):
        self.batches.append(len(z))
        self.times.append(t)
        label = (y if y is not None else torch.full((len(z),), -1)).float().view(-1, 1, 1, 1)
        answer = self.scale * label.expand_as(z)
        return torch.cat([answer, 10 * answer], 1) if self.outputs == 2 else answer


Z, LABELS = torch.zeros(2, 4, 3, 3, dtype=torch.float64), torch.tensor([3, 5])
EPS = Diffusion("linear", "eps")
T = torch.tensor(500)


def guided(model, diffusion=EPS, null_class=10, weaker=None, **guidance):
    return Guided(Network(model, diffusion), of(**{"scale": 1.5, **guidance}), null_class, weaker)


def of(**guidance):
    return validate(Guidance, guidance, "the test")


def constant(values, channels=4):
    return values.float().view(-1, 1, 1, 1).expand(2, channels, 3, 3)


def test_guidance_extrapolates_from_the_null_class_on_all_channels_in_one_call():
    model = LabelIsTheAnswer()
    out = guided(model, scale=1.5)(Z, T, LABELS)
    assert model.batches == [4]
    torch.testing.assert_close(out, constant(10 + 1.5 * (LABELS - 10)))


def test_guidance_1_runs_the_conditional_half_only():
    model = LabelIsTheAnswer()
    out = guided(model, scale=1.0)(Z, T, LABELS)
    assert model.batches == [2]
    torch.testing.assert_close(out, constant(LABELS))


def test_an_unconditional_model_gets_no_labels():
    assert (guided(LabelIsTheAnswer(), null_class=0, scale=1.0)(Z, T, LABELS) == -1).all()


@pytest.mark.parametrize(("schedule", "t", "time"), [("linear", T, 500.0), ("flow", torch.tensor(0.3), 300.0)])
def test_the_network_is_told_the_time_of_the_schedule(schedule, t, time):
    model = LabelIsTheAnswer()
    guided(model, Diffusion(schedule, "v"))(Z, t, LABELS)
    assert model.times[0].tolist() == pytest.approx([time] * 4)


def test_under_the_edm_target_the_network_sees_the_scaled_input():
    seen = []

    class Backbone(nn.Module):
        def forward(self, z, t, y):
            seen.append(z)
            return z

    d, t = Diffusion("linear", "edm"), torch.tensor([300, 300])
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    guided(Backbone(), d, scale=1.0)(z, t[0], LABELS)
    torch.testing.assert_close(seen[0], d.model_input(z, t).float())


def test_guidance_of_three_channels_leaves_the_fourth_to_the_class():
    """As DiT's published numbers were drawn."""
    out = guided(LabelIsTheAnswer(), scale=1.5, channels=3)(Z, T, LABELS)
    torch.testing.assert_close(out[:, :3], constant(10 + 1.5 * (LABELS - 10), 3))
    torch.testing.assert_close(out[:, 3:], constant(LABELS, 1))


@pytest.mark.parametrize("channels", [None, 3])
def test_the_values_of_a_learned_variance_are_those_of_the_class(channels):
    d = Diffusion("linear", "eps", variance="learned_range")
    out = guided(LabelIsTheAnswer(outputs=2), d, scale=2.0, channels=channels)(Z, T, LABELS)
    assert out.shape == (2, 8, 3, 3)
    torch.testing.assert_close(out[:, :3], constant(10 + 2 * (LABELS - 10), 3))
    torch.testing.assert_close(out[:, 4:], constant(10 * LABELS))


def test_outside_the_interval_the_unconditional_half_is_not_run():
    """Min-SNR's t <= 800 is [0, 0.8]; both ends belong to it."""
    model = LabelIsTheAnswer()
    limited = guided(model, scale=2.0, interval=(0.2, 0.8))
    answers = [limited(Z, torch.tensor(t), LABELS)[0, 0, 0, 0].item() for t in (0, 199, 200, 500, 800, 801, 999)]
    assert model.batches == [2, 2, 4, 4, 4, 2, 2]
    assert answers == [3, 3, -4, -4, -4, 3, 3]


@pytest.mark.parametrize(("name", "at_noise", "at_middle", "at_data"), [
    ("constant", 3, 3, 3), ("linear", 1, 3, 5), ("cosine", 1, 3, 5)
])  # fmt: skip
def test_schedules_go_from_none_at_noise_to_twice_the_strength_and_keep_its_mean(name, at_noise, at_middle, at_data):
    options = of(scale=3.0, schedule=name)
    assert [options.scale_at(u) for u in (1.0, 0.5, 0.0)] == pytest.approx([at_noise, at_middle, at_data])
    positions = (torch.arange(1000) + 0.5) / 1000
    assert sum(options.scale_at(u) for u in positions.tolist()) / 1000 == pytest.approx(3, abs=1e-6)


def test_linear_and_cosine_differ_between():
    scales = [of(scale=3.0, schedule=name).scale_at(0.75) for name in ("linear", "cosine")]
    assert scales == pytest.approx([2.0, 3 - 2**0.5])


def test_where_a_schedule_is_at_none_one_half_is_run():
    model = LabelIsTheAnswer()
    guided(model, Diffusion("flow", "flow"), scale=3.0, schedule="linear")(Z, torch.tensor(1.0), LABELS)
    assert model.batches == [2]


def test_rescale_brings_back_the_deviation_of_the_conditional_answer():
    torch.manual_seed(0)
    strong, combined = torch.randn(3, 4, 8, 8), 4 * torch.randn(3, 4, 8, 8)
    dims = (1, 2, 3)
    torch.testing.assert_close(rescale(combined, strong, 1.0).std(dims), strong.std(dims))
    half = rescale(combined, strong, 0.5)
    torch.testing.assert_close(half, 0.5 * rescale(combined, strong, 1.0) + 0.5 * combined)
    assert rescale(combined, strong, 0.0) is combined


class Random(nn.Module):
    """A fixed answer for every label."""

    def forward(self, z, t, y):
        rows = [torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(int(label))) for label in y]
        return torch.stack(rows)


def test_rescale_and_channels_work_together_on_the_guided_channels():
    strong, weak = Random()(Z, None, LABELS), Random()(Z, None, torch.tensor([10, 10]))
    out = guided(Random(), scale=3.0, channels=3, rescale=0.7)(Z, T, LABELS)
    plain = weak[:, :3] + 3 * (strong[:, :3] - weak[:, :3])
    factor = strong[:, :3].std((1, 2, 3)) / plain.std((1, 2, 3))
    torch.testing.assert_close(out[:, :3], plain * (0.7 * factor + 0.3).view(-1, 1, 1, 1))
    torch.testing.assert_close(out[:, 3:], strong[:, 3:])


def test_cfg_zero_fits_the_null_answer_to_the_conditional_one_first():
    """Fan et al. 2025: s = <strong, weak> / |weak|^2, by image."""
    d, t = Diffusion("flow", "flow"), torch.tensor(0.5)
    strong, weak = Random()(Z, None, LABELS), Random()(Z, None, torch.tensor([10, 10]))
    out = guided(Random(), d, scale=3.0, rule="cfg_zero")(Z, t, LABELS)
    for i in range(2):
        s = torch.dot(strong[i].flatten(), weak[i].flatten()) / weak[i].norm() ** 2
        torch.testing.assert_close(out[i], s * weak[i] + 3 * (strong[i] - s * weak[i]))


def test_autoguidance_pushes_away_from_a_weaker_model_of_the_same_class():
    model, weak = LabelIsTheAnswer(), LabelIsTheAnswer(scale=0.5)
    out = guided(model, weaker=Network(weak, EPS), scale=2.0)(Z, T, LABELS)
    assert (model.batches, weak.batches) == ([2], [2])
    torch.testing.assert_close(out, constant(0.5 * LABELS + 2 * (LABELS - 0.5 * LABELS)))


def test_autoguidance_works_without_classes():
    model, weak = LabelIsTheAnswer(), LabelIsTheAnswer(scale=0.5)
    out = guided(model, null_class=0, weaker=Network(weak, EPS), scale=2.0)(Z, T, LABELS)
    torch.testing.assert_close(out, torch.full((2, 4, 3, 3), -0.5 + 2 * -0.5))


def test_a_weaker_model_may_have_another_target_and_variance():
    v = Diffusion("linear", "v", variance="learned_range")
    eps_hat, t = 0.5 * constant(LABELS).double(), torch.tensor([500, 500])
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64)

    class SameThoughtAsV(nn.Module):
        def forward(self, z_in, time, y):
            answer = Diffusion("linear", "eps").convert(eps_hat, z, t, to="v")
            return torch.cat([answer, torch.full_like(answer, 99.0)], 1)

    out = guided(LabelIsTheAnswer(), weaker=Network(SameThoughtAsV(), v), scale=2.0)(z, T, LABELS)
    torch.testing.assert_close(out, constant(1.5 * LABELS), rtol=1e-5, atol=1e-5)


class Linear(nn.Module):
    """Remembers the precision in which its product came out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.dtypes = []

    def forward(self, z, t, y=None):
        product = self.layer(z)
        self.dtypes.append(product.dtype)
        return product


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_runs_in_its_precision_and_answers_in_fp32(guidance, precision, inside):
    model = Linear()
    out = Guided(Network(model, EPS), Guidance(guidance), 10, precision=precision)(Z, T, LABELS)
    assert model.dtypes == [inside]
    assert out.dtype == torch.float32


FLOW = Diffusion("flow", "flow")


@pytest.mark.parametrize(
    ("guidance", "diffusion", "num_classes", "autoguided", "words"),
    [
        (1.5, EPS, 0, False, "unconditional.*--autoguidance"),
        ({"scale": 1, "interval": (0.1, 0.8)}, EPS, 10, False, "guidance.interval would do nothing"),
        ({"scale": 1, "channels": 3}, EPS, 0, False, "guidance.channels would do nothing"),
        (1, EPS, 10, True, "autoguidance would do nothing"),
        ({"scale": 2, "interval": (0.8, 0.1)}, EPS, 10, False, "is empty"),
        ({"scale": 2, "channels": 5}, EPS, 10, False, "latents have 4"),
        ({"scale": 2, "schedule": "cosin"}, EPS, 10, False, "guidance.schedule in the test: .*Did you mean 'cosine'"),
        ({"scale": 2, "rule": "cfg_zer"}, EPS, 10, False, "guidance.rule in the test: .*Did you mean 'cfg_zero'"),
        ({"scale": 2, "rule": "cfg_zero"}, EPS, 10, False, "schedule flow and target flow"),
        ({"scale": 2, "rule": "cfg_zero"}, FLOW, 10, True, "two models"),
        ({"interval": (0, 0.8)}, EPS, 10, False, "Missing key 'guidance.scale'"),
        ({"scale": 2, "intervall": (0, 0.8)}, EPS, 10, False, "'guidance.intervall'.*Did you mean 'interval'"),
        ("strong", EPS, 10, False, "Bad value 'strong' for 'guidance.scale'"),
    ],
)
def test_what_makes_no_sense_is_refused(guidance, diffusion, num_classes, autoguided, words):
    with pytest.raises(UserError, match=words):
        check_draw(draw_options(guidance=guidance), ModelFacts(diffusion, 4, num_classes, autoguided))


@pytest.mark.parametrize(
    ("guidance", "diffusion", "num_classes", "autoguided"),
    [
        (1, EPS, 0, False),
        (2.0, EPS, 0, True),
        ({"scale": 2.0, "rule": "cfg_zero", "interval": (0, 0.9)}, FLOW, 10, False),
        ({"scale": 1.5, "schedule": "cosine", "rescale": 0.7, "channels": 3}, EPS, 10, False),
    ],
)
def test_what_makes_sense_passes(guidance, diffusion, num_classes, autoguided):
    check_draw(draw_options(guidance=guidance), ModelFacts(diffusion, 4, num_classes, autoguided))


@pytest.mark.parametrize("name", ["interval", "schedule", "rule", "channels", "rescale"])
def test_a_flat_key_of_version_0_1_names_its_new_place(name):
    with pytest.raises(UserError, match=f"'guidance_{name}' in the test has another place now: write guidance.{name}"):
        draw_options(**{"guidance": 1.5, f"guidance_{name}": 0.5})


def test_a_number_is_the_scale():
    assert draw_options(guidance=2).guidance == draw_options(guidance={"scale": 2}).guidance == Guidance(2.0)

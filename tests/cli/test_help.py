"""What `--help` says, costs, and must not import; and that its words about defaults and names are true."""

import dataclasses
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentdebias import cli
from latentdebias.analysis.figures import FIGURES
from latentdebias.autoencoders import DEFAULT_AUTOENCODER
from latentdebias.cli import analyze, bench, encode, evaluate, plan, sample, study
from latentdebias.commands.encode import EncodeOptions
from latentdebias.drawing.sample_formats import SAMPLE_FORMATS
from latentdebias.drawing.sample_record import settings_of
from latentdebias.drawing.trajectory import COLUMNS
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.intervals import RESAMPLES
from latentdebias.sampling import SAMPLERS, DrawOptions
from latentdebias.sampling.guidance import GUIDANCE_RULES, GUIDANCE_SCHEDULES
from latentdebias.training.monitor.peak_flops import GPUS

TOOLS = Path(__file__).parents[2] / "tools"
SUBCOMMANDS = {
    "encode": encode.COMMANDS,
    "evaluate": evaluate.COMMANDS,
    "analyze": analyze.FIGURES,
    "export": ["import-dit", "import-min-snr", "import-uvit", "import-diffusers", "diffusers", "hub"],
    "study": study.COMMANDS,
    "bench": bench.BENCHES,
}
EVERY = [
    (),
    *((name,) for name in cli.COMMANDS),
    *((name, each) for name, subs in SUBCOMMANDS.items() for each in subs),
]


def help_of(parser, flag):
    [action] = [action for action in parser._actions if flag in (*action.option_strings, action.dest)]
    return action.help


def test_no_help_imports_what_takes_long():
    code = f"""
import sys
from latentdebias.cli import main
for words in {EVERY}:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, words
    heavy = {{"torch", "timm", "diffusers", "deepspeed", "numpy", "pydantic"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for words in EVERY:
        assert f"usage: {' '.join(('latentdebias', *words))}" in done.stdout


def seconds(*words):
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True, timeout=60)
    return time.perf_counter() - start


def test_help_is_there_at_once():
    bare = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-m", "latentdebias.cli.train", "--help") for _ in range(3)) < bare + 0.5


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_launcher_of_the_checkout_runs_the_command_and_names_itself(name, monkeypatch, capsys):
    launcher = TOOLS / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(launcher), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(launcher), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: python {launcher}" in capsys.readouterr().out.replace("\n", " ")


def test_what_is_no_command_is_refused_with_the_nearest(tool):
    result = tool("sampel")
    assert result.code == 2
    assert "Did you mean 'sample'" in result.err
    assert "sample" in tool("--help").out


@pytest.mark.parametrize("field", dataclasses.fields(EncodeOptions), ids=lambda field: field.name)
def test_encode_states_the_defaults_of_its_options(field):
    text = help_of(encode.parser(), field.name)
    if field.default not in (dataclasses.MISSING, None, False, ()):
        assert f"default {field.default}" in text


def test_sampling_states_the_defaults_of_its_options():
    parser, settings = sample.parser(), settings_of(DrawOptions())
    guidance = settings.pop("guidance")
    flags = {**settings, **{f"guidance_{name}": guidance[name] for name in ("schedule", "rule")}}
    for name, default in flags.items():
        assert f"default {default}" in help_of(parser, name), name
    assert f"default {guidance['scale']}" in help_of(parser, "guidance")
    assert "default {:g},{:g}".format(*guidance["interval"]) in help_of(parser, "guidance_interval")
    assert f"default {guidance['rescale']:g}" in help_of(parser, "guidance_rescale")


def test_nothing_given_is_nothing_said():
    """A default is where its option is, and what was not given is None until then."""
    given = vars(sample.parser().parse_args(["--model", "m", "--out", "o"]))
    assert {given[field.name] for field in dataclasses.fields(DrawOptions)} == {None}
    assert vars(encode.parser().parse_args([])) == {}


@pytest.mark.parametrize(
    ("parser", "flag", "registry"),
    [
        (sample, "--sampler", SAMPLERS),
        (sample, "--guidance-schedule", GUIDANCE_SCHEDULES),
        (sample, "--guidance-rule", GUIDANCE_RULES),
        (sample, "--format", SAMPLE_FORMATS),
        (evaluate, "--metrics", METRICS),
        (evaluate, "--extractor", EXTRACTORS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_help_lists_what_is_registered(parser, flag, registry):
    text = help_of(parser.parser(), flag)
    assert [name for name in registry.names() if name not in text] == []


def test_other_defaults_that_help_states():
    assert f"default {RESAMPLES}" in help_of(evaluate.parser(), "resamples")
    assert f", {COLUMNS} by default" in help_of(sample.parser(), "trajectory")
    assert sample.parser().parse_args(["--model", "m", "--out", "o", "--trajectory"]).trajectory == COLUMNS
    assert DEFAULT_AUTOENCODER in help_of(encode.parser(), "vae")
    assert help_of(plan.parser(), "gpu") == f"{', '.join(sorted(GPUS))}; default h100"
    assert {"inception", "dinov2", "digits"} < set(EXTRACTORS.names())


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "8000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)],
    ids=["default", "spin count", "wait policy"],
)
@pytest.mark.parametrize("module", ["latentdebias.cli", "latentdebias.cli.train"])
def test_how_threads_wait_is_set_before_torch_is_loaded_unless_the_user_says(module, given, expected):
    program = f"import sys, {module}, os; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected), "False"]


@pytest.mark.parametrize("figure", analyze.FIGURES)
def test_figures_state_the_defaults_of_their_options(figure):
    parser = analyze.parser(figure)
    for field in dataclasses.fields(FIGURES.class_of(figure)):
        text, default = help_of(parser, field.name), field.default
        if isinstance(default, int | float):
            assert f"default {default:g}" in text, field.name
        elif isinstance(default, tuple) and default and isinstance(default[0], int):
            assert f"default {','.join(map(str, default))}" in text, field.name

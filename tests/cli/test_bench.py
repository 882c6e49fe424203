"""The benchmarks at tiny sizes: what they report, and not how fast anything is."""

import json
import shlex

import pytest
import torch
import yaml

from latentdebias.backbones import BACKBONES
from latentdebias.cli.bench import BASELINES as NAMED_BASELINES
from latentdebias.cli.bench import parser
from latentdebias.commands.bench.gpu_suite import FULL, TINY
from latentdebias.commands.bench.loops import BASELINES, LEVERS, Lever
from latentdebias.commands.bench.loops.curves import TOLERANCE, farthest_loss
from latentdebias.commands.bench.loops.workload import written
from latentdebias.commands.bench.measuring.table import Table
from latentdebias.commands.bench.measuring.timing import in_turns
from latentdebias.config import load_config

MODEL = "{name: dit, width: 32, depth: 1, heads: 2, patch_size: 8}"
SHORT = ["--segments", 1, "--steps", 1]


@pytest.fixture
def rows(tool, tmp_path):
    """Run a benchmark that must succeed, and return the rows of its JSON by name."""

    def run(*words):
        file = tmp_path / "table.json"
        result = tool("bench", *words, "--json", file)
        assert result.code == 0, result.err
        return rows_of(file)

    return run


def rows_of(file):
    table = json.loads(file.read_text())
    assert {"machine", "commit", "versions", "command", "date", "rows"} <= set(table)
    assert all(row["low"] <= row["median"] <= row["high"] for row in table["rows"])
    return {row["name"]: row for row in table["rows"]}


def test_the_suite_measures_each_part_once(tool, tmp_path):
    parts = ["xl", "sample", "encode", "data"]
    words = ["bench", "gpu-suite", "--size", "tiny", "--out", tmp_path, "--parts", *parts]
    late = tool(*words, "--seconds", 1)
    assert late.code != 0
    assert "not measured yet" in late.err
    assert tool(*words).code == 0
    written_at = {part: (tmp_path / f"{part}.json").stat().st_mtime_ns for part in parts}
    assert tool(*words).code == 0
    assert written_at == {part: (tmp_path / f"{part}.json").stat().st_mtime_ns for part in parts}
    tables = {part: rows_of(tmp_path / f"{part}.json") for part in parts}
    assert {tables["xl"][name]["unit"] for name in ("loop", "bare", "plain")} == {"s/step"}
    ratio = tables["xl"]["loop"]["median"] / tables["xl"]["plain"]["median"]
    assert tables["xl"]["loop / plain"]["median"] == pytest.approx(ratio)
    assert {"plain", "latentdebias", "latentdebias / plain"} <= set(tables["sample"])
    assert {"bare", "job", "job / bare"} <= set(tables["encode"])
    assert "batches of indexed / intake" in tables["data"]


@pytest.mark.parametrize("part", FULL)
def test_every_part_of_the_suite_is_a_legal_command(part):
    assert set(FULL) == set(TINY)
    for words in (FULL[part], TINY[part]):
        options = vars(parser().parse_args(shlex.split(words)))
        assert set(options.get("levers", [])) <= set(LEVERS)
        models = options.get("model", options.get("models", options.get("backbone", [])))
        for model in [models] if isinstance(models, str) else models:
            BACKBONES.build(yaml.safe_load(model))


def test_the_command_line_knows_every_baseline():
    assert set(NAMED_BASELINES) == set(BASELINES)


def test_an_unknown_part_or_lever_is_told_the_legal_ones(tool, tmp_path):
    assert "xl_levers" in tool("bench", "gpu-suite", "--out", tmp_path, "--parts", "xl_lever").err
    assert "compile_blocks" in tool("bench", "train", "--levers", "compile").err


def test_memory_stands_beside_the_planners_count(rows):
    table = rows("memory", "--model", MODEL, "--batch-size", 4, "--stages", 0, "--loops", "plain")
    measured, planned = (table[f"stage 0 {kind}"]["median"] for kind in ("measured", "planned"))
    assert table["stage 0 measured / planned"]["median"] == pytest.approx(measured / planned)
    assert table["plain measured"]["median"] > 0


def test_growth_has_a_row_for_each_size_and_predicts(rows):
    table = rows("growth", "--models", MODEL, "--sides", "--batches", "--ranks", 1, 2, "--batch-size", 2, *SHORT)
    assert {f"model {MODEL}", f"model {MODEL} memory", "ranks 2 efficiency"} <= set(table)
    assert table["ranks 1 communication"]["median"] == 0
    assert 0 < table["ranks 2 communication"]["median"] <= 100
    # 675 million fp32 gradients at 50 GB/s, nearly twice.
    predicted = table["predicted, 64 GPUs"]["median"] * table["predicted, 64 GPUs communication"]["median"] / 100
    assert predicted == pytest.approx(2 * 63 / 64 * 4 * 675e6 / 50e9, rel=0.01)


def test_a_start_is_the_sum_of_its_phases(rows):
    table = rows("start", "--model", MODEL, "--batch-size", 2, "--rounds", 1)
    phases = [row["median"] for name, row in table.items() if name.startswith("of it")]
    assert sum(phases) == pytest.approx(table["start"]["median"])
    assert min(phases) >= 0
    assert table["of it imports"]["median"] > table["of it config"]["median"]


@pytest.mark.parametrize(("changes", "within"), [((), True), (("optimizer.lr=2.0e-3",), False)])
def test_the_trainer_has_the_losses_of_a_plain_loop(process_group, changes, within):
    with written(MODEL, 8, "fp32", 0, side=16) as workload:
        assert (farthest_loss(workload, Lever(changes), 8) <= TOLERANCE["fp32"]) == within


def test_variants_take_turns_and_go_first_in_turns():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    times = in_turns(ways, 3, torch.device("cpu"))
    assert "".join(order) == "abbaab"
    assert [len(values) for values in times.values()] == [3, 3]


def test_a_table_says_what_it_left_out_and_pairs_its_ratios(capsys, tmp_path):
    table = Table("a title", left_out={"theirs": "is not installed"})
    table.add_ratio("ours / theirs", [1.0, 9.0, 2.0], [2.0, 9.0, 1.0])
    table.report(str(tmp_path / "table.json"))
    row = rows_of(tmp_path / "table.json")["ours / theirs"]
    assert (row["low"], row["median"], row["high"], row["unit"]) == (0.5, 1.0, 2.0, "x")
    assert "left out: is not installed" in capsys.readouterr().out


def test_sample_refuses_no_steps(tool):
    result = tool("bench", "sample", "--steps", 0)
    assert result.code == 2
    assert "--steps" in result.err


@pytest.mark.parametrize("name", LEVERS)
def test_a_lever_is_a_change_that_a_config_can_have(name):
    assert load_config("imagenet256_debias.yaml", LEVERS[name].changes)

"""What commands print at a terminal, and in files and pipes."""

import sys

import pytest

from latentdebias.commands.evaluate import as_text
from latentdebias.commands.terminal import print_next, table
from latentdebias.evaluation.protocol.record import ProtocolRecord


def test_numbers_are_flush_right_and_words_flush_left():
    rows = [["name", "n", "of"], ["a", "10", "x"], ["long name", "-5", ""]]
    assert table(rows).splitlines() == ["name        n  of", "a          10  x", "long name  -5"]


def test_a_score_stands_beside_its_interval_above_the_protocol():
    record = ProtocolRecord(
        {"fid": 2.08123, "kid": 0.001}, [{"name": "fid"}], 40, 50, "run", "0", "digits/", "1" * 64, "digits",
        intervals={"fid": (1.5, 2.6)},
    )  # fmt: skip
    lines = as_text(record).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["score", "value", "95%", "interval", "better"],
        ["fid", "2.081", "1.5", "to", "2.6", "lower"],
        ["kid", "0.001"],
    ]
    assert lines[3:] == ["", *record.settings()]
    assert max(map(len, lines[:-1])) < 80


@pytest.mark.parametrize("terminal", [True, False])
def test_the_next_command_is_told_at_a_terminal_alone(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_next("sample", "--model", "a folder")
    assert capsys.readouterr().out == "next: latentdebias sample --model 'a folder'\n" * terminal

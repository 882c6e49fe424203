"""Runs that read their shards in sequence, in this process: they resume as exactly as any other."""

import json

import pytest
from run_files import in_folder, losses_of
from serving import served_by_ranges

from latentdebias.errors import UserError

STREAMING = [
    "data.reader={name: streaming, shuffle_buffer: 64, shards_at_once: 2}",
    "data.flip=true",
    "training.micro_batch_size=4",
]


def test_a_resumed_run_goes_on_bit_for_bit_without_local_copies(make_run, digit_shards, tmp_path):
    with served_by_ranges(digit_shards) as server:
        remote = [*STREAMING, f"data.shards={server.url}"]
        whole = make_run(*remote, in_folder(tmp_path, "whole"))
        whole.train()
        make_run(*remote, in_folder(tmp_path, "parts"), "training.steps=2").train()
        resumed = make_run(*remote, in_folder(tmp_path, "parts"))
        resumed.train()
    assert losses_of(resumed) == losses_of(whole)
    local = make_run(*STREAMING, in_folder(tmp_path, "local"), "data.workers=0")
    local.train()
    assert losses_of(local) == losses_of(whole)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (STREAMING, [], r"data\.reader"),
        ([], STREAMING, r"data\.reader"),
        (STREAMING, [*STREAMING, "data.reader.shuffle_buffer=32"], "shuffle_buffer: 64 there, 32 now"),
    ],
)
def test_a_run_goes_on_with_the_reader_that_it_began_with(make_run, before, after, named):
    make_run("training.steps=2", "data.flip=true", *before).train()
    with pytest.raises(UserError, match=named):
        make_run("data.flip=true", *after).train()
    make_run("data.flip=true", *after, "training.may_change=[data.reader,data.reader.ranks]").train()


def test_a_run_of_other_ranks_is_refused_and_goes_on_where_it_may(make_run):
    run = make_run(*STREAMING, "training.steps=2")
    run.train()
    commit = run.run_dir / "checkpoints" / "step-00000002" / "COMMIT.json"
    record = json.loads(commit.read_text())
    assert record["settings"]["data.reader.ranks"] == 1
    record["settings"]["data.reader.ranks"] = 2
    commit.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"data\.reader\.ranks: 2 there, 1 now"):
        make_run(*STREAMING).train()
    make_run(*STREAMING, "training.may_change=[data.reader.ranks]").train()

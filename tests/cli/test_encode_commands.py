import json
import re

import pytest
from PIL import Image

from latentdebias.shards.jobs.merge import merge
from latentdebias.shards.jobs.verify import verify


@pytest.fixture
def linked(digit_shards, tmp_path):
    """The digits' shards in a folder of the test's own, whose tars are links and never written to."""
    merge(tmp_path / "digits", [digit_shards])
    return tmp_path / "digits"


def test_status_speaks_to_people_and_to_machines(tool, linked):
    assert tool("encode", "status", linked).out.startswith("finished: 4 of 4 shards, 1797 of 1797 inputs")
    (linked / "manifest.json").unlink()
    (linked / "shard-000003.json").unlink()
    (linked / "shard-000003.tar.node-12.tmp").write_bytes(b"")
    result = tool("encode", "status", linked)
    assert result.code == 0
    assert result.out.startswith("not finished: 3 of 4 shards, 1536 of 1797 inputs")
    assert "shard-000003 in progress: process 12 on node" in result.out
    status = json.loads(tool("encode", "status", linked, "--json").out)
    assert (status["finished"], status["shards_done"], status["in_progress"][0]["pid"]) == (False, 3, 12)


def test_finalize_writes_the_manifest_of_complete_shards(tool, linked):
    manifest = (linked / "manifest.json").read_bytes()
    (linked / "manifest.json").unlink()
    result = tool("encode", "finalize", linked)
    assert result.out.startswith("1797 images in 4 shards")
    assert (linked / "manifest.json").read_bytes() == manifest
    assert tool("encode", "finalize", linked).out == result.out


def test_finalize_lists_what_is_missing(tool, linked):
    (linked / "manifest.json").unlink()
    (linked / "shard-000001.json").unlink()
    result = tool("encode", "finalize", linked)
    assert result.code == 2
    assert "1 of 4 shards are still to be made: shard-000001" in result.err
    assert not (linked / "manifest.json").exists()


def test_finalize_does_not_cut_a_merged_set_short(tool, digit_shards, linked, tmp_path):
    for number, count in enumerate((3, 3, 3)):
        part = tmp_path / f"part{number}"
        assert tool("encode", "subset", part, digit_shards, "--num", count, "--seed", number).code == 0
    assert tool("encode", "merge", tmp_path / "all", *(tmp_path / f"part{n}" for n in range(3)), linked).code == 0
    (tmp_path / "all" / "manifest.json").unlink()
    result = tool("encode", "finalize", tmp_path / "all")
    assert result.code == 2
    assert "it was merged" in result.err
    assert not (tmp_path / "all" / "manifest.json").exists()


def test_inspect_shows_pairs_and_scores(tool, digit_shards, tmp_path):
    sheet = tmp_path / "sheet.png"
    images = digit_shards.parent / "images"
    result = tool("encode", "inspect", digit_shards, "--images", images, "--num", 6, "--out", sheet, "--device", "cpu")
    assert result.code == 0, result.err
    assert result.out.startswith("1797 images in 4 shards, 0 rejected")
    assert "10 classes, samples in each: min 174" in result.out
    assert "reconstruction of 6 of 6 shown: PSNR" in result.out
    assert Image.open(sheet).size[0] > Image.open(sheet).size[1]


def test_inspect_measures_rfid_where_asked(tool, digit_shards, tmp_path):
    assert tool("encode", "subset", tmp_path / "few", digit_shards, "--per-class", 6).code == 0
    images = digit_shards.parent / "images"
    words = ("--images", images, "--rfid", "--extractor", "digits", "--device", "cpu")
    result = tool("encode", "inspect", tmp_path / "few", *words)
    assert result.code == 0, result.err
    assert re.search(r"^rFID \d+\.\d{3} over 60 images \(digits sha256:", result.out, re.MULTILINE)


def test_inspect_without_inputs_shows_reconstructions_alone(tool, linked):
    result = tool("encode", "inspect", linked, "--device", "cpu")
    assert result.code == 0, result.err
    assert "reconstruction not measured" in result.out
    assert linked.with_name("digits.contact-sheet.png").exists()


def test_merge_and_subset_make_sets_that_verify(tool, digit_shards, tmp_path):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    result = tool("encode", "subset", one, digit_shards, "--classes", "3,7", "--per-class", 5)
    assert "labels renumbered: 3 -> 0, 7 -> 1" in result.out
    assert tool("encode", "subset", two, digit_shards, "--classes", "7,3", "--num", 4, "--seed", 1).code == 0
    assert tool("encode", "merge", both, one, two).out.startswith("14 images in 2 shards")
    assert tool("encode", "verify", both).out.startswith("verified: 14 images")
    assert verify(both).class_names == ["3", "7"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["statsu", "SHARDS"], "Unknown command 'statsu'. Did you mean 'status'?"),
        (["status", "EMPTY"], "no set of latent shards"),
        (["finalize", "EMPTY"], "no set of latent shards"),
        (["inspect", "EMPTY"], "no set of latent shards"),
        (["inspect", "SHARDS", "--rfid"], "--rfid compares with the inputs"),
        (["inspect", "SHARDS", "--out", "OUT"], "ends in .png"),
        (["inspect", "SHARDS", "--images", "EMPTY", "--rfid", "--out", "PNG"], "No Inception weights"),
        (["merge", "OUT", "SHARDS", "EMPTY"], "no set of latent shards"),
        (["merge", "OUT", "SHARDS", "SHARDS"], "named twice"),
        (["merge", "SHARDS", "SHARDS"], "is not empty"),
        (["subset", "OUT", "SHARDS", "--classes", "3,x"], "Unknown class 'x'"),
        (["subset", "SHARDS", "SHARDS", "--num", "3"], "is not empty"),
        (["subset", "OUT", "SHARDS", "--num", "3", "--seed", "-1"], "--seed -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_words_are_one_paragraph_and_exit_code_2(tool, digit_shards, tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "empty").mkdir()
    places = {"SHARDS": digit_shards, "EMPTY": tmp_path / "empty", "OUT": tmp_path / "out", "PNG": tmp_path / "s.png"}
    result = tool("encode", *(places.get(word, word) for word in words))
    assert result.code == 2
    assert message in result.err
    assert len([line for line in result.err.strip().splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "s.png").exists()

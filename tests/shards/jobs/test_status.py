import os
from dataclasses import asdict

import numpy as np
import pytest

from latentdebias.errors import UserError
from latentdebias.shards.format import shard_name
from latentdebias.shards.jobs import status as status_module
from latentdebias.shards.jobs.status import set_status


def unfinish(directory, missing):
    """Take the manifest and the shards `missing` away, as before they were made."""
    (directory / "manifest.json").unlink()
    for shard in missing:
        for path in directory.glob(f"{shard_name(shard)}.*"):
            path.unlink()


def test_a_finished_set_is_whole(encode):
    status = set_status(encode())
    assert (status.finished, status.shards_done, status.shards_total) == (True, 5, 5)
    assert (status.images, status.rejected, status.inputs_done, status.inputs_total) == (21, 0, 21, 21)


def test_rejected_inputs_count_as_done(encode, image_dir):
    (image_dir / "cat" / "00.png").write_bytes(b"no image")
    directory = encode(max_reject_share=0.2)
    unfinish(directory, [4])
    status = set_status(directory)
    assert (status.finished, status.images, status.rejected, status.inputs_done) == (False, 19, 1, 20)


def test_rate_and_time_left_follow_from_the_files_times(encode):
    directory = encode()
    unfinish(directory, [3, 4])
    os.utime(directory / "plan.json", (1000, 1000))
    for shard, when in [(0, 1004), (1, 1010), (2, 1030)]:
        os.utime(directory / f"{shard_name(shard)}.json", (when, when))
    status = set_status(directory)
    assert status.inputs_per_second == pytest.approx(15 / 30)
    assert status.seconds_left == pytest.approx(6 / 0.5)


def test_without_a_complete_shard_no_rate_is_made_up(encode):
    directory = encode()
    unfinish(directory, range(5))
    status = set_status(directory)
    assert (status.shards_done, status.inputs_per_second, status.seconds_left) == (0, None, None)


def test_a_tar_in_the_making_is_named_with_its_process(encode):
    directory = encode()
    unfinish(directory, [2])
    path = directory / "shard-000002.tar.node-7.cluster-4711.tmp"
    path.write_bytes(bytes(512))
    os.utime(path, (os.stat(path).st_mtime - 60,) * 2)
    [shard] = set_status(directory).in_progress
    assert asdict(shard) | {"seconds_since_write": None} == {
        "shard": "shard-000002",
        "host": "node-7.cluster",
        "pid": 4711,
        "size": 512,
        "seconds_since_write": None,
    }
    assert 59 < shard.seconds_since_write < 120


def test_a_cut_tar_is_not_done(encode):
    directory = encode()
    unfinish(directory, [])
    path = directory / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    assert set_status(directory).shards_done == 4


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    np.save(tmp_path / "latents.npy", np.zeros(3))
    with pytest.raises(UserError, match="no set of latent shards"):
        set_status(tmp_path)


def test_only_the_last_shards_make_the_rate(encode, monkeypatch):
    monkeypatch.setattr(status_module, "RECENT_SHARDS", 2)
    directory = encode()
    unfinish(directory, [4])
    for shard, when in enumerate([1000, 5000, 5010, 5020]):
        os.utime(directory / f"{shard_name(shard)}.json", (when, when))
    assert set_status(directory).inputs_per_second == pytest.approx(10 / 20)

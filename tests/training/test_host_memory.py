"""The memory that limits of control groups and of the shell leave to a process."""

import resource
from types import SimpleNamespace

import psutil
import pytest

from latentdebias import distributed
from latentdebias.training.checkpoints import host_memory
from latentdebias.training.checkpoints.host_memory import cgroup_free, fits, free_host_memory

GB = 10**9


def limit(folder, names, allowed, taken, cached):
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in zip(names, (allowed, taken), strict=True):
        (folder / name).write_text(f"{number}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 1\n")


VERSION_2 = ("memory.max", "memory.current")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_a_group_leaves_its_limit_less_what_is_taken_and_is_no_cache(tmp_path):
    limit(tmp_path / "job" / "step", VERSION_2, 1000, 700, 99)
    assert list(cgroup_free("0::/job/step\n", tmp_path)) == [400]


def test_groups_above_count_and_groups_without_a_limit_do_not(tmp_path):
    limit(tmp_path / "job", VERSION_2, 500, 450, 49)
    limit(tmp_path / "job" / "step", VERSION_2, "max", 450, 49)
    assert list(cgroup_free("0::/job/step\n", tmp_path)) == [100]


def test_version_1_and_a_path_of_the_host_in_a_container(tmp_path):
    limit(tmp_path / "memory", VERSION_1, 1000, 500, 2)
    with (tmp_path / "memory" / "memory.stat").open("a") as stat:
        stat.write("total_inactive_file 7\ntotal_active_file 3\n")
    assert list(cgroup_free("5:devices:/x\n4:memory:/docker/7f\n0::/\n", tmp_path)) == [510]


def test_the_least_of_all_limits_holds_and_ranks_share_a_machine(monkeypatch):
    memory = SimpleNamespace(rss=3 * GB, vms=20 * GB)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: memory))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40 * GB))
    monkeypatch.setattr(host_memory, "cgroup_free", lambda groups, root: [30 * GB])
    monkeypatch.setattr(distributed, "local_world_size", lambda: 2)
    peak = SimpleNamespace(ru_maxrss=4 * GB // 1024)
    monkeypatch.setattr(resource, "getrusage", lambda who: peak)
    # Of 30 GB a half, less the 1 GB that was taken, given back and will be taken again.
    assert free_host_memory() == 14 * GB
    monkeypatch.setattr(resource, "getrlimit", lambda which: (25 * GB, 25 * GB))
    assert free_host_memory() == 4 * GB


@pytest.mark.parametrize(("free", "answer"), [(100, False), (111, True)])
def test_a_copy_needs_some_more_than_its_size(free, answer):
    assert fits(100, free) == answer


def test_without_a_control_group_the_limit_is_the_machine(monkeypatch):
    monkeypatch.setattr(host_memory, "cgroup_free", lambda groups, root: [])
    assert 0 < free_host_memory() <= host_memory.psutil.virtual_memory().total

"""How much of the host's memory this process may still take."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from latentdebias import distributed

CGROUPS = Path("/sys/fs/cgroup")
# The files with the limit and with what is taken, by the name of the controllers: version 2 has none.
FILES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def free_host_memory() -> int:
    """Bytes of memory that this rank may still take, without those that it took and gave back, and will take again.

    What the machine and the control groups (of Slurm, of a container) leave is divided among the ranks of the machine;
    `ulimit -v` holds for each.
    """
    process = psutil.Process().memory_info()
    groups = Path("/proc/self/cgroup")
    limits = [*cgroup_free(groups.read_text(), CGROUPS)] if groups.exists() else []
    free = min([psutil.virtual_memory().available, *limits]) // distributed.local_world_size()
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        free = min(free, address_space - process.vms)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return free - max(0, peak - process.rss)


def fits(nbytes: int, free: int) -> bool:
    """Whether a copy of `nbytes` fits into `free` bytes, with a tenth more for gaps and unsynced pages of files."""
    return 1.1 * nbytes < free


def cgroup_free(groups: str, root: Path) -> Iterator[int]:
    """Bytes that each control group over this process leaves; `groups` is the text of /proc/self/cgroup.

    Both versions are read. The page cache of files is counted as free, since the kernel gives it back.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in FILES:
            continue
        place = Path(root, controllers, path.lstrip("/"))
        limit, usage = FILES[controllers]
        # In a container the path may be the host's, and the limit in a folder above.
        for folder in (place, *place.parents):
            if folder.is_relative_to(root) and (folder / limit).is_file():
                allowed = (folder / limit).read_text().strip()
                if allowed != "max":
                    yield int(allowed) - int((folder / usage).read_text()) + _page_cache(folder / "memory.stat")


def _page_cache(stat: Path) -> int:
    numbers = dict(line.split() for line in stat.read_text().splitlines())
    # In version 1 the groups below are counted in the totals alone.
    return sum(int(numbers.get(f"total_{name}", numbers[name])) for name in ("inactive_file", "active_file"))

"""The processor cores that this process can use, within the limits of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

# More threads than any machine that serves this network can use. Without a limit, a typing error
# would start any number of threads.
MOST_THREADS = 1024
_ROOT = Path("/")
_VERSION_1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores(root: Path = _ROOT) -> int:
    """Physical cores that this process may use, at least 1.

    The result is limited by the processors on which the process may run and by the CPU quota of its
    control groups. Two threads on one core share its arithmetic units, so that a second one gains
    nothing here. The kernel stops all threads for the rest of a period once the quota is used up.

    Args:
        root: The folder that holds `sys` and `proc` of the kernel.
    """
    return max(1, math.floor(min(len(_cores(root)), _quota(root))))


def shares(count: int, root: Path = _ROOT) -> list[frozenset[int]]:
    """The logical processors for each of several servers, as whole physical cores.

    No core is in two shares, unless there are more servers than usable cores. The shares differ by
    one core at most.

    Args:
        count: The number of servers, at least 1.
        root: As for `usable_cores`.
    """
    cores = _cores(root)[: usable_cores(root)]
    bounds = [number * len(cores) // count for number in range(count + 1)]
    return [
        frozenset().union(*cores[begin : max(end, begin + 1)]) for begin, end in pairwise(bounds)
    ]


def _cores(root: Path) -> list[frozenset[int]]:
    """The physical cores on which this process may run, each as its logical processors."""
    cores: dict[str, set[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        name = _core(root / f"sys/devices/system/cpu/cpu{cpu}/topology", cpu)
        cores.setdefault(name, set()).add(cpu)
    return [frozenset(core) for core in cores.values()]


def _core(topology: Path, cpu: int) -> str:
    """A name of the physical core of a logical processor.

    It is the list of the core's logical processors, or the processor's own number if the kernel
    does not give the list.
    """
    try:
        return (topology / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(root: Path) -> float:
    """The smallest quota of the process's control groups, in processors; infinite without one."""
    return min((_limit(folder) for folder in _groups(root)), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that limit this process, in versions 1 and 2.

    They are the process's own group and the groups around it. In a container, the mount shows the
    container's groups only, while `proc/self/cgroup` may name a path outside of it. Then only the
    top of the mount is used.
    """
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    fields = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    paths = {controllers: path.strip("/") for _, controllers, path in fields}
    version_1 = [mount / name for name in _VERSION_1_MOUNTS]
    for controllers, tops in (("", [mount, mount / "unified"]), ("cpu", version_1)):
        path = next((path for names, path in paths.items() if controllers in names.split(",")), "")
        path = "" if ".." in path.split("/") else path
        for top in tops:
            group = top / path
            yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _limit(group: Path) -> float:
    """One group's quota in processors; infinite if the group has none.

    It is in `cpu.max` (version 2) or in `cpu.cfs_quota_us` (version 1).
    """
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf

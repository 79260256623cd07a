"""Threads: physical cores, and what a container is given of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seresnext101_triton.server.cores import shares, usable_cores


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine of eight logical processors on four cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for cpu in range(8):
        write(
            tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
            f"{cpu % 4},{cpu % 4 + 4}",
        )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_two_threads_of_a_core_are_one(root):
    assert usable_cores(root) == 4


@pytest.mark.parametrize(
    ("allowed", "cores"), [({0, 1, 4}, 2), ({3}, 1), ({3, 7}, 1), ({0, 5, 6}, 3)]
)
def test_only_those_that_the_process_may_use(root, monkeypatch, allowed, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert usable_cores(root) == cores


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 4),
        ("250000 100000", 2),
        ("199999 100000", 1),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("100000 50000", 2),
        ("100000 0", 4),
        ("", 4),
        ("garbage", 4),
    ],
)
def test_a_containers_quota(root, limit, cores):
    write(root / "sys/fs/cgroup/cpu.max", limit)
    assert usable_cores(root) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("300000", "100000", 3), ("-1", "100000", 4), ("", "", 4), ("100000", "50000", 2)],
)
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_the_quota_of_an_older_kernel(root, mount, quota, period, cores):
    write(root / f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us", quota)
    write(root / f"sys/fs/cgroup/{mount}/cpu.cfs_period_us", period)
    assert usable_cores(root) == cores


def test_the_smallest_quota_of_the_groups_around_a_process_counts(root):
    write(root / "proc/self/cgroup", "0::/user.slice/server.service")
    write(root / "sys/fs/cgroup/user.slice/server.service/cpu.max", "max 100000")
    write(root / "sys/fs/cgroup/user.slice/cpu.max", "300000 100000")
    write(root / "sys/fs/cgroup/other.slice/cpu.max", "100000 100000")
    assert usable_cores(root) == 3
    write(root / "sys/fs/cgroup/user.slice/server.service/cpu.max", "200000 100000")
    assert usable_cores(root) == 2
    write(root / "sys/fs/cgroup/cpu.max", "100000 100000")
    assert usable_cores(root) == 1


def test_nested_groups_of_an_older_kernel(root):
    write(root / "proc/self/cgroup", "7:memory:/elsewhere\n4:cpu,cpuacct:/docker/box\n0::/")
    write(root / "sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs_quota_us", "200000")
    write(root / "sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs_period_us", "100000")
    assert usable_cores(root) == 2


@pytest.mark.parametrize(
    "path", ["/docker/not-mounted-here", "/../../outside", "nonsense without colons"]
)
def test_a_path_that_the_mount_does_not_show_leaves_the_mounts_top(root, path):
    write(root / "proc/self/cgroup", f"0::{path}" if path.startswith("/") else path)
    write(root / "sys/fs/cgroup/cpu.max", "200000 100000")
    write(root / "sys/outside/cpu.max", "100000 100000")
    assert usable_cores(root) == 2


def test_a_system_that_says_nothing_of_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert usable_cores(tmp_path) == 3


def test_this_machine():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [{0, 1, 2, 3, 4, 5, 6, 7}]),
        (2, [{0, 4, 1, 5}, {2, 6, 3, 7}]),
        (3, [{0, 4}, {1, 5}, {2, 6, 3, 7}]),
        (5, [{0, 4}, {0, 4}, {1, 5}, {2, 6}, {3, 7}]),
    ],
)
def test_servers_share_out_whole_cores(root, count, expected):
    assert shares(count, root) == expected

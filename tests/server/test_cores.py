"""Threads: physical cores, and what a container is given of them."""

from __future__ import annotations

import os

import pytest

from server.cores import usable_cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Eight logical processors on four cores of one socket."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for cpu in range(8):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{cpu % 4}\n")
    (tmp_path / "fs/cgroup/cpu").mkdir(parents=True)
    return tmp_path


def test_two_threads_of_a_core_are_one(system):
    assert usable_cores(system) == 4


def test_only_those_that_the_process_may_use(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4})
    assert usable_cores(system) == 2


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)])
def test_a_containers_quota(system, limit, cores):
    (system / "fs/cgroup/cpu.max").write_text(limit + "\n")
    assert usable_cores(system) == cores


def test_the_quota_of_an_older_kernel(system):
    (system / "fs/cgroup/cpu/cpu.cfs_quota_us").write_text("300000\n")
    (system / "fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(system) == 3
    (system / "fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(system) == 4


def test_a_system_that_says_nothing_of_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert usable_cores(tmp_path) == 3


def test_this_machine():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))

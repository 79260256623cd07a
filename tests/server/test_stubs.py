"""Which stubs have died, with real processes that have the names of stubs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from seresnext101_triton.server import stubs as module
from seresnext101_triton.server.stubs import (
    LoadWatch,
    Stub,
    StubWatch,
    children_of,
    is_waited_for,
    stubs_of,
)
from tests.server.stub_processes import Stubs, has_died

SERVER = os.getpid()


@pytest.fixture
def stubs(tmp_path) -> Iterator[Stubs]:
    started = Stubs(tmp_path)
    yield started
    started.close()


def killed(process: subprocess.Popen[str]) -> int:
    """Kill a process, which stays behind as a zombie. Returns its id."""
    process.kill()
    has_died(process)
    return process.pid


def ended(process: subprocess.Popen[str], code: int) -> int:
    assert process.stdin
    process.stdin.write(f"{code}\n")
    process.stdin.flush()
    has_died(process)
    return process.pid


def seen(dead: list[Stub]) -> list[tuple[int, str, str, int | None]]:
    return [(stub.pid, stub.model, stub.version, stub.exit_status) for stub in dead]


def test_the_stubs_of_a_server_and_what_they_run(stubs):
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    first, second = stubs.start("a"), stubs.start("b", "12")
    stubs.start("c", name="another")
    dead = killed(stubs.start("d"))
    found = {stub.pid: stub for stub in stubs_of(SERVER)}
    assert {pid: (stub.model, stub.version, stub.exit_status) for pid, stub in found.items()} == {
        first.pid: ("a", "1", None),
        second.pid: ("b", "12", None),
        dead: ("", "", signal.SIGKILL),
    }
    assert all(now - 1 < stub.started_s < now + 600 for stub in found.values())
    assert first.pid in children_of(SERVER) and list(children_of(first.pid)) == []
    assert list(stubs_of(2**22 + 1)) == []


def test_processes_that_another_thread_has_started_count(stubs):
    started, end = threading.Event(), threading.Event()

    def run() -> None:
        stubs.start("a")
        started.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        assert [stub.model for stub in stubs_of(SERVER)] == ["a"]
    finally:
        end.set()
        thread.join()


def test_each_death_is_told_once(stubs):
    watch = StubWatch()
    first, second, third = stubs.start("a"), stubs.start("a"), stubs.start("a", "2")
    assert watch.alive("a", "1") == 0
    assert watch.died(SERVER) == []
    assert [watch.alive(*each) for each in (("a", "1"), ("a", "2"), ("b", "1"))] == [2, 1, 0]
    killed(first)
    (dead,) = watch.died(SERVER)
    assert seen([dead]) == [(first.pid, "a", "1", 9)]
    assert dead.death == f"model a: its process {first.pid} ended with signal SIGKILL"
    assert (
        dead.death_in_load
        == f"{dead.death} while it was loaded, and tritonserver waits for it for ever"
    )
    assert watch.alive("a", "1") == 1
    assert watch.died(SERVER) == []
    first.wait()
    assert watch.died(SERVER) == []
    ended(third, 3)
    assert seen(watch.died(SERVER)) == [(third.pid, "a", "2", 3 << 8)]
    second.kill()
    second.wait()
    (dead,) = watch.died(SERVER)
    assert seen([dead]) == [(second.pid, "a", "1", None)]
    assert dead.death == f"model a: its process {second.pid} is gone"
    assert watch.died(SERVER) == [] and watch.alive("a", "1") == 0


def test_a_stub_that_ends_well_has_not_died(stubs):
    watch = StubWatch()
    first = stubs.start("a")
    assert watch.died(SERVER) == []
    ended(first, 0)
    assert watch.died(SERVER) == []


def test_old_stubs_of_a_version_end_after_new_ones_have_started(stubs):
    watch = StubWatch()
    old, other = stubs.start("a"), stubs.start("b")
    assert watch.died(SERVER) == []
    new = stubs.start("a")
    for process in (old, other):
        process.kill()
        process.wait()
    assert seen(watch.died(SERVER)) == [(other.pid, "b", "1", None)]
    killed(new)
    stubs.start("a")  # one that was killed was not ended by Triton
    assert seen(watch.died(SERVER)) == [(new.pid, "a", "1", 9)]


def test_a_stub_that_was_never_seen_alive(stubs):
    """Its model is not known, and one that ended well is of no interest."""
    watch = StubWatch()
    dead, well = killed(stubs.start("a")), ended(stubs.start("b"), 0)
    (found,) = watch.died(SERVER)
    assert seen([found]) == [(dead, "", "", 9)] and well != dead
    assert found.death == f"model (unknown): its process {dead} ended with signal SIGKILL"
    assert watch.died(SERVER) == []


def test_a_child_that_the_kernel_leaves_out_is_not_dead(stubs, monkeypatch):
    watch = StubWatch()
    process = stubs.start("a")
    assert watch.died(SERVER) == []
    with monkeypatch.context() as patch:
        patch.setattr(module, "children_of", lambda server: iter(()))
        assert watch.died(SERVER) == [] and watch.alive("a", "1") == 1
        process.kill()
        process.wait()
        assert seen(watch.died(SERVER)) == [(process.pid, "a", "1", None)]


def test_triton_waits_for_a_stub_whose_status_nobody_collects(stubs, monkeypatch):
    monkeypatch.setattr(module, "_HANGS_AFTER_S", 600.0)
    watch = LoadWatch()
    process, other = stubs.start("a"), stubs.start("b")
    assert watch.hangs_for(SERVER) is None
    killed(process)
    other.kill()
    other.wait()  # Triton has seen it
    assert watch.hangs_for(SERVER) is None  # it may still collect the status
    time.sleep(0.02)
    monkeypatch.setattr(module, "_HANGS_AFTER_S", 0.01)
    found = watch.hangs_for(SERVER)
    assert found is not None and seen([found]) == [(process.pid, "a", "1", 9)]
    assert is_waited_for(found, time.monotonic() - 1)
    assert not is_waited_for(found, time.monotonic() + 1)
    assert not is_waited_for(replace(found, started=found.started + 1), 0.0)
    process.wait()
    assert watch.hangs_for(SERVER) is None
    assert not is_waited_for(found, 0.0)

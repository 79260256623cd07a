"""The process of a server, with a shell in the server's place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from seresnext101_triton.server.process import (
    ServerProcess,
    ending,
    hide_argument,
    stat_fields,
)
from tests.waiting import until

ERROR = "E1127 10:00:00 1 model.cc:9] 'm' has no file"
FATAL = "F1127 10:00:00 1 main.cc:9] out of memory"
PARSE = '[libprotobuf ERROR text_format.cc:337] "Error parsing"'


@pytest.fixture
def start(tmp_path: Path):
    """A function that runs a script, with its output in `notes`; what it started is ended."""
    started: list[ServerProcess] = []
    lock = os.open(tmp_path, os.O_RDONLY)

    def run(script: str, notes: Callable[[str], None] = lambda _: None, **options) -> ServerProcess:
        given: dict[str, Any] = {"lock": lock, "note": notes} | options
        started.append(ServerProcess(["sh", "-c", script], {"X": "y"}, tmp_path, **given))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.wait()
    os.close(lock)


def finished(process: ServerProcess) -> list[str]:
    assert process.wait(60) == 0
    process.settle_log()
    return process.log()


def test_it_has_its_folder_its_environment_and_no_input(start, tmp_path):
    script = "pwd; echo $X; cat; echo to stderr >&2; printf 'a\\377b'"
    assert finished(start(script)) == [str(tmp_path), "y", "to stderr", "a�b"]


def test_the_last_two_hundred_lines_are_kept(start):
    lines = finished(start("i=0; while [ $i -lt 201 ]; do echo $i; i=$((i+1)); done"))
    assert lines == [str(number) for number in range(1, 201)]


def test_errors_are_found_in_the_log(start, tmp_path):
    other = "E1127 10:00:00 1 model.cc:9] 'n' has no file"
    nearly = ("I1127 1] 'm'", "EE127 ] 'm'", f" {ERROR}", "E1127] 'm'")
    (tmp_path / "log").write_text("\n".join([ERROR, other, FATAL, PARSE, *nearly]))
    process = start("cat log")
    finished(process)
    assert process.severe() == [ERROR, other, FATAL]
    assert process.complaint("m") == "'m' has no file Error parsing"
    assert process.complaint("x") == "Error parsing"


def test_the_whole_log_is_shown_to_who_wants_it(start):
    notes: list[str] = []
    finished(start(f'echo a; echo "{ERROR}"', notes.append, verbose=True))
    assert notes == ["a", ERROR]


def test_an_error_is_shown_only_while_errors_are(start, tmp_path):
    notes: list[str] = []
    script = f'echo "{ERROR}"; until [ -e go ]; do sleep 0.01; done; echo "{FATAL}"; echo b'
    process = start(script, notes.append)
    assert until(lambda: process.log() == [ERROR])
    process.shows_errors = True
    (tmp_path / "go").touch()
    finished(process)
    assert notes == [FATAL]


def arguments(process: ServerProcess) -> bytes:
    return Path("/proc", str(process.pid), "cmdline").read_bytes()


def test_other_users_do_not_see_the_secret(start):
    """As far as the kernel lets this process write into the memory of what it has started."""
    plain = start("echo up; sleep 600 # a.secret a.secret aXsecret")
    assert until(lambda: plain.log() == ["up"])
    before = arguments(plain)
    if not hide_argument(plain.pid, "a.secret"):
        pytest.skip("this kernel forbids it")
    assert arguments(plain) == before.replace(b"a.secret", b"********")
    process = start("echo up; sleep 600 # a.secret", secret="a.secret")
    assert until(lambda: process.log() == ["up"])
    assert arguments(process).endswith(b" # ********\0")


def test_a_process_that_has_ended_has_nothing_to_hide(start):
    process = start("exit 3")
    assert process.wait() == process.poll() == 3
    assert stat_fields(process.pid) == [] and not hide_argument(process.pid, "x")


def test_it_is_waited_for_as_long_as_was_said(start):
    process = start("sleep 600")
    assert process.poll() is None and process.wait(0.01) is None
    process.end()
    assert process.poll() == -signal.SIGTERM


def test_what_does_not_end_is_killed_with_all_that_it_started(start):
    process = start("trap '' TERM; sleep 600 & echo $!; wait; sleep 600")
    assert until(lambda: len(process.log()) == 1)
    (child,) = map(int, process.log())
    process.shows_errors = True
    process.end(0.1)
    assert process.poll() == -signal.SIGKILL and not process.shows_errors
    assert until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")
    process.kill()  # nothing is there any more


def test_it_runs_on_its_cores_with_the_lock_of_its_launch(start, tmp_path):
    core = min(os.sched_getaffinity(0))
    lock = os.open(tmp_path, os.O_RDONLY)
    script = f"grep Cpus_allowed_list: /proc/self/status; readlink /proc/self/fd/{lock}"
    try:
        cores, held = finished(start(script, cpus={core}, lock=lock))
    finally:
        os.close(lock)
    assert cores.split() == ["Cpus_allowed_list:", str(core)] and held == str(tmp_path)


def test_it_ends_with_the_process_that_started_it(tmp_path):
    """Its launcher is killed, and can end nothing itself."""
    script = (
        "import os, signal; from pathlib import Path\n"
        "from seresnext101_triton.server.process import ServerProcess\n"
        "process = ServerProcess(['sleep', '600'], {}, Path('/'), lock=0, note=print)\n"
        "print(process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    launcher = psutil.Popen([sys.executable, "-c", script], stdout=-1, text=True)
    pid = int(launcher.communicate()[0])
    assert until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_the_fields_of_a_process_follow_its_name(start, tmp_path):
    program = tmp_path / "a) 1 ("
    program.symlink_to("/bin/sleep")
    process = start(f'exec "{program}" 600')
    assert until(lambda: b"sleep" not in Path(f"/proc/{process.pid}/comm").read_bytes())
    fields = stat_fields(process.pid)
    assert fields[0] in "SRD" and fields[1] == str(os.getpid())  # its state, and its parent


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "code 0"), (3, "code 3"), (-15, "signal SIGTERM"), (-1, "signal SIGHUP")],
)
def test_how_a_process_ended_in_words(code, words):
    assert ending(code) == words
    assert ending(-100) == "signal 100"

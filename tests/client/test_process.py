"""The end of a command: with its exit code, whatever hangs, and however often it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 600  # a test fails by this when a process hangs; no verdict depends on how fast it is

BEGIN = """
import atexit, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from seresnext101_triton.client import process

atexit.register(lambda: sys.stderr.write("at exit\\n"))

def hang():
    open(sys.argv[1], "rb")  # a FIFO that nobody writes

def begin_to_hang():
    pool = ThreadPoolExecutor(4)
    for _ in range(4):
        pool.submit(hang)
    pool.shutdown(wait=False, cancel_futures=True)

def say(word):
    print(word, flush=True)
"""


@pytest.fixture
def start(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    started: list[subprocess.Popen] = []

    def start(main: str, **options) -> subprocess.Popen:
        body = "".join(f"    {line}\n" for line in main.strip().splitlines())
        command = [
            sys.executable,
            "-c",
            f"{BEGIN}\ndef main():\n{body}\nprocess.run(main)",
            str(tmp_path / "fifo"),
        ]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options)
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


DEAF = """
word = 'ready'
while True:
    try:
        say(word)
        time.sleep(3600)
    except BaseException:
        word = 'interrupted'
"""


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


def test_an_ordinary_end(start):
    assert ended(start("return 3")) == (3, "at exit\n")
    assert ended(start("sys.exit(2)")) == (2, "at exit\n")


def test_threads_that_end_are_waited_for(start):
    assert ended(
        start(
            "threading.Thread(target=lambda: (time.sleep(0.3), "
            "sys.stderr.write('done\\n'))).start()\nreturn 1"
        )
    ) == (
        1,
        "done\nat exit\n",
    )


def test_threads_that_hang_are_left(start):
    assert ended(start("begin_to_hang()\nreturn 3")) == (3, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_hangs(start, number):
    process = start("begin_to_hang()\nsay('ready')\nthreading.Event().wait()")
    process.stdout.readline()
    process.send_signal(number)
    assert ended(process) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_swallowed_ends_the_process_all_the_same(start, number):
    """A library may catch everything: there is a time for what is to be written, and no more."""
    process = start(DEAF)
    process.stdout.readline()
    process.send_signal(number)
    assert ended(process) == (130, "")


def test_an_object_that_is_half_made_prints_no_traceback(start):
    """As tritonclient's, whose destructor needs what its constructor sets at the end."""
    process = start(
        "class Client:\n"
        "    def __init__(self):\n        say('ready')\n        time.sleep(3600)\n"
        "    def __del__(self):\n        self.never_set.close()\n"
        "Client()"
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "at exit\n")


def test_a_second_signal_ends_at_once(start):
    process = start("process._GRACE_TO_WRITE_S = 1e6" + DEAF)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (130, "")


def test_what_a_command_does_when_it_is_interrupted_is_done(start):
    process = start(
        "try:\n    say('ready')\n    time.sleep(3600)\n"
        "finally:\n    time.sleep(1.5)\n    sys.stderr.write('written\\n')"
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (130, "written\nat exit\n")


def test_a_signal_that_is_ignored_stays_so(start):
    """As under nohup, or in the background of a shell."""

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = start("say('ready')\nsys.stdin.readline()\nreturn 7", preexec_fn=ignore)
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    process.communicate("go on\n", timeout=PATIENCE_S)
    assert process.returncode == 7


def test_closed_streams_are_not_taken_by_the_next_file():
    """Else what is printed would land in a file of results, or in a connection."""
    code = (
        "import os, sys; from seresnext101_triton.client import process; "
        "process.run(lambda: sys.stderr.write('x') - 1 + "
        "sum(os.readlink(f'/proc/self/fd/{n}') != os.devnull for n in range(3)))"
    )
    result = subprocess.run(
        f'{sys.executable} -c "{code}" <&- >&- 2>&-', shell=True, timeout=PATIENCE_S
    )
    assert result.returncode == 0  # so many of the three are something else


def test_a_terminal_without_utf_8_gets_ascii():
    code = (
        "from seresnext101_triton.client import process; "
        "process.run(lambda: print('a · 1 – 2 … █ é \\udce9') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert (done.stdout, done.stderr) == (b"a - 1 - 2 ... # \\xe9 \\udce9\n", b"")


def test_python_m_client_heeds_signals_before_it_imports_anything_large():
    assert "process.run(_main)" in Path("client/__main__.py").read_text()
    code = (
        "import sys, seresnext101_triton.client.process; "
        "print(sorted({'numpy', 'PIL', 'rich', 'argparse'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )

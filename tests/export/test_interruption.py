"""Signals at any moment: one line and exit code 130, no traceback, and no half publication."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seresnext101_triton.export import interruption

ROOT = Path(__file__).parent.parent.parent
LINE = "interrupted; nothing has changed\n"

# The export of the small network. It is interrupted when Python begins to import the named module.
EXPORT = """
import os, signal, sys
from seresnext101_triton.export import interruption

module, repository = sys.argv[1:]
waiting = [module]

def hook(event, arguments):
    if event == "import" and arguments[0] in waiting:
        waiting.clear()
        os.kill(os.getpid(), signal.SIGTERM)

sys.addaudithook(hook)

def main():
    from seresnext101_triton.export.cli import main
    return main(["--weights", "seeded", "--architecture", "se-resnext-tiny", "--crop", "64", \
"--formats", "onnx", "--quiet",
                 "--repository", repository])

sys.exit(interruption.run(main, "the repository is as it was"))
"""


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )


def run(body: str, **options) -> subprocess.CompletedProcess[str]:
    """A command with these lines as its main function; `me(signal)` sends it a signal."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return python(
        "import os, signal, sys, time\n"
        "from seresnext101_triton.export import interruption\n"
        "def me(number): signal.raise_signal(number)\n"
        f"def main():\n{lines}\n    return 0\n"
        "sys.exit(interruption.run(main, 'nothing has changed'))",
        **options,
    )


@pytest.mark.parametrize(
    "module",
    [
        "rich.console",  # what reports to the user
        "numpy.core._multiarray_umath",  # whose C code prints the exception, and raises ImportError
        "torch._C",
        "torch.optim.lr_scheduler",
        "onnxscript",
        "torch._dynamo.exc",  # PyTorch's exporter then fails with an AttributeError
        "onnxruntime",
    ],
)
def test_an_export_that_is_interrupted_while_it_imports(tmp_path, module):
    """A moment is the name of a module, not a time, so that it is the same on every machine."""
    done = python(EXPORT, module, str(tmp_path / "models"))
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        "",
        "interrupted; the repository is as it was\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "body",
    [
        "me(NUMBER)",
        "try: me(NUMBER)\n"
        "except KeyboardInterrupt: raise AttributeError('module has no attribute') from None",
        "try: me(NUMBER)\nexcept KeyboardInterrupt: sys.exit(7)",
        "try: me(NUMBER)\nexcept KeyboardInterrupt: pass\ninterruption.check()",
        "from seresnext101_triton.export.reporting import Reporter\n"
        "try: me(NUMBER)\nexcept KeyboardInterrupt: pass\n"
        "with Reporter().step('next'): print('work')",
        "class Drop:\n  def __del__(self): me(NUMBER)\nDrop()\ninterruption.check()",
        "try: me(NUMBER)\nexcept KeyboardInterrupt: sys.excepthook(*sys.exc_info())\n"
        "interruption.check()",
        "with interruption.held_back():\n  me(NUMBER)\n"
        "  interruption.leaves_behind('nothing has changed')\nprint('work')",
    ],
    ids=[
        "raised",
        "another exception",
        "exit",
        "swallowed",
        "step",
        "destructor",
        "printed",
        "held back",
    ],
)
def test_whatever_becomes_of_the_exception(name, body):
    done = run(body.replace("NUMBER", f"signal.{name}"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", LINE)


def test_nothing_is_published_after_a_signal_that_was_swallowed(tmp_path):
    body = (
        "from pathlib import Path\n"
        "from seresnext101_triton.export.repository import Repository\n"
        f"with Repository(Path({str(tmp_path / 'models')!r})).exclusive() as publication:\n"
        "  publication.stage('m').write('config.pbtxt', 'new')\n"
        "  try: me(signal.SIGTERM)\n"
        "  except KeyboardInterrupt: pass\n"
        "  publication.publish()"
    )
    done = run(body)
    assert (done.returncode, done.stderr) == (130, LINE)
    assert list(tmp_path.iterdir()) == []


def test_what_was_published_already_is_said():
    done = run("interruption.leaves_behind('all is done')\nme(signal.SIGTERM)")
    assert (done.returncode, done.stderr) == (130, "interrupted; all is done\n")


def test_a_bug_keeps_its_traceback_and_a_command_its_code():
    done = run("raise ZeroDivisionError")
    assert done.returncode == 1 and "Traceback" in done.stderr and "interrupted" not in done.stderr
    assert run("return 65").returncode == 65
    assert run("raise SystemExit(2)").returncode == 2


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_what_the_process_was_started_to_ignore_stays_ignored(name):
    """`nohup` does that with SIGHUP, and a shell with SIGINT for what runs in the background."""
    number = getattr(signal, name)
    done = run(
        f"me(signal.{name})\nprint('work')",
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "work\n", "")


def test_a_signal_while_the_interpreter_ends_changes_no_code():
    assert (
        run("import atexit\natexit.register(lambda: me(signal.SIGTERM))\nreturn 3").returncode == 3
    )


def test_a_signal_that_comes_twice_at_once_is_one():
    """`timeout` sends it to the process and to its group; this must not cut the cleanup short."""
    done = run("try: me(signal.SIGTERM)\nfinally:\n  me(signal.SIGTERM)\n  print('cleaned up')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", LINE)


def test_a_later_second_signal_ends_the_process_at_once():
    done = run(
        "try: me(signal.SIGTERM)\n"
        "finally:\n  time.sleep(1.1)\n  me(signal.SIGINT)\n  print('cleaned up')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", LINE)


def test_no_signal_ends_the_process_between_steps_that_belong_together():
    """Not even a second one, late."""
    body = (
        "try: me(signal.SIGTERM)\nexcept KeyboardInterrupt: pass\ntime.sleep(1.1)\n"
        "with interruption.held_back():\n  print('one', flush=True)\n  me(signal.SIGTERM)\n"
        "  print('two', flush=True)\nprint('three')"
    )
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (130, "one\ntwo\n", LINE)


def test_handlers_of_others_are_held_back_and_then_called():
    """A program with its own signal handlers may use the library, which leaves them unchanged."""
    received = []
    handler = lambda number, frame: received.append(number)  # noqa: E731
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with interruption.held_back():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
        with pytest.raises(ZeroDivisionError), interruption.held_back():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_holds_nothing_back():
    """Python handles signals in the main thread only, and lets no other set a handler."""
    entered = []

    def work() -> None:
        with interruption.held_back():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]


def test_importing_it_changes_nothing():
    code = (
        "import signal, sys\nbefore = [signal.getsignal(n) for n in range(1, 32)], "
        "sys.excepthook, sys.unraisablehook\nimport seresnext101_triton.export.cli\n"
    )
    done = python(
        code + "assert before == ([signal.getsignal(n) for n in range(1, 32)], "
        "sys.excepthook, sys.unraisablehook)"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_real_command_line_as_a_service_manager_ends_it(tmp_path):
    """From the first moment that it handles signals, which is before it imports anything heavy."""
    command = [
        sys.executable,
        "-m",
        "export",
        "--weights",
        "seeded",
        "--architecture",
        "se-resnext-tiny",
        "--repository",
        str(tmp_path / "m"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:
        assert process.poll() is None
        time.sleep(0.001)
        caught = int(
            Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0], 16
        )
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "interrupted; the repository is as it was\n")

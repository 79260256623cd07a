"""Fixtures of the page: the program that serves it, in its own environment, and a browser."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.client.page.browsing import DEADLINE_S

PROJECT = Path(__file__).parents[3]
PYTHON = Path(sys.prefix) / "web" / "bin" / "python"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_READY = re.compile(r"the page is at (http://\S+);")


@contextmanager
def page_at(triton: str, *options: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The page of a Triton server on a free port: its address and its process.

    Args:
        triton: The address of the Triton server.
        options: More options of the command.
        folder: The folder for temporary files.
    """
    if not PYTHON.exists():
        raise AssertionError(f"{PYTHON} does not exist: make {PYTHON.parents[1]}/.installed")
    command = [str(PYTHON), "-m", "client", "web", "--url", triton, "--port", "0", *options]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            yield _address(process.stderr), process
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def _address(stream: IO[str]) -> str:
    """The address that the program prints as soon as the page answers."""
    until, lines = time.monotonic() + DEADLINE_S, []
    while time.monotonic() < until and select.select([stream], [], [], DEADLINE_S)[0]:
        lines.append(stream.readline())
        if found := _READY.search(lines[-1]):
            return found[1]
        if not lines[-1]:
            break
    raise AssertionError(f"the page did not start: {''.join(lines)}")


@pytest.fixture(scope="session")
def live(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page whose server answers. Pictures may have 1 MiB."""
    folder = tmp_path_factory.mktemp("page")
    with page_at(server.url, "--max-upload", "1", folder=folder) as (url, _):
        yield url


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window. Its camera shows a moving figure."""
    program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if program is None:
        raise AssertionError("Chromium is not installed: apt-get install chromium")
    options = [
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
    ]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser. While it is there, this thread has a running event loop, which Playwright keeps.

    So it is of one module, and `asyncio.run` works in the tests of every other.
    """
    with chromium() as running:
        yield running

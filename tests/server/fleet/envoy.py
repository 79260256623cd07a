"""Runs a real Envoy with a configuration."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PROGRAM = Path(sys.executable).with_name("envoy")


def validate(configuration: Path) -> subprocess.CompletedProcess[str]:
    """Ask Envoy whether it would run with a configuration."""
    return subprocess.run(
        [PROGRAM, "--mode", "validate", "--config-path", configuration],
        capture_output=True,
        text=True,
    )


@contextmanager
def running(configuration: Path, admin: int, timeout_s: float = 120) -> Iterator[None]:
    """Run Envoy, and wait until it takes requests and knows which servers are ready.

    Args:
        configuration: A file.
        admin: The port of Envoy's own pages.
        timeout_s: How long the start may take.
    """
    log = configuration.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [PROGRAM, "--config-path", configuration, "--disable-hot-restart"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + timeout_s
        while not _is_ready(admin):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def _is_ready(admin: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{admin}/ready", timeout=30) as answer:
            return bool(answer.read().strip() == b"LIVE")
    except URLError:
        return False


def healthy(admin: int, cluster: str) -> set[int]:
    """The ports of the servers that get requests."""
    with urlopen(f"http://127.0.0.1:{admin}/clusters?format=json", timeout=30) as answer:
        statuses = json.load(answer)["cluster_statuses"]
    (hosts,) = (each["host_statuses"] for each in statuses if each["name"] == cluster)
    return {
        host["address"]["socket_address"]["port_value"]
        for host in hosts
        if not set(host["health_status"]) - {"eds_health_status"}
    }

"""Nodes of Ray on this machine, each of which can be killed as a machine fails."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# For the nodes and for those who connect to them. Without a key here, Ray writes one into the home
# folder. Ray gives its processes a niceness of 15 otherwise.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


class Node:
    """A node that has started.

    Args:
        arguments: Arguments of `ray start`.
    """

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        memory = "--object-store-memory=100000000"
        self._process = subprocess.Popen(
            [*command, memory, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        assert self._process.stdout
        said = ""
        for line in self._process.stdout:
            said += line
            if "Ray runtime started" in line:
                return
        raise AssertionError(said)

    def kill(self) -> None:
        """End all its processes with SIGKILL."""
        started = psutil.Process(self._process.pid)
        for process in (started, *started.children(recursive=True)):
            process.kill()
        self._process.communicate()

    def actors(self) -> list[psutil.Process]:
        """Its processes in which an actor of a dataset lives."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [each for each in children if each.cmdline()[0].startswith("ray::MapWorker")]


class Nodes:
    """The nodes of one cluster: a head, and others.

    Args:
        folder: Where Ray writes. The path must be short: Ray makes sockets in it.
        cpus: CPUs of each node.

    Attributes:
        address: The address of the cluster.
        others: All nodes but the head.
    """

    def __init__(self, folder: Path, cpus: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        place = "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--include-dashboard=false"
        self._cpus = f"--num-cpus={cpus}"
        self.head = Node(self._cpus, "--head", f"--port={port}", *place)
        self.others: list[Node] = []

    def add(self) -> None:
        """Start one more node."""
        address = f"--address={self.address}", "--node-ip-address=127.0.0.1"
        self.others.append(Node(self._cpus, *address))


@contextmanager
def nodes(folder: Path, others: int, cpus: int = 1) -> Iterator[Nodes]:
    """A cluster that ends with the context.

    Args:
        folder: As for `Nodes`.
        others: How many nodes it has besides its head.
        cpus: As for `Nodes`.
    """
    cluster = Nodes(folder, cpus)
    try:
        for _ in range(others):
            cluster.add()
        yield cluster
    finally:
        for node in (*cluster.others, cluster.head):
            node.kill()

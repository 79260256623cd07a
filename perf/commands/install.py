"""Fetch the release of NVIDIA's perf_analyzer that runs on this system into this environment."""

from __future__ import annotations

import argparse

HELP = "fetch NVIDIA's perf_analyzer into this environment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(_arguments: argparse.Namespace) -> int:
    """Fetch it."""
    from seresnext101_triton.perf import analyzer, console

    console.show(f"{analyzer.install()} runs here")
    return 0

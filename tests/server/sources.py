"""Compares the table of `server/releases.py` with what NVIDIA publishes. It needs a network.

python -m tests.server.sources

The versions of Triton and OpenVINO are from Triton's release branches, those of ONNX Runtime from
its compatibility page, and those of CUDA from its release notes. TensorRT's are in none of these.
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from seresnext101_triton.server.releases import RELEASES

BRANCHES = "https://raw.githubusercontent.com/triton-inference-server/server"
NOTES = "https://docs.nvidia.com/deeplearning/triton-inference-server/release-notes"
_TIMEOUT_S = 60
_ABSENT = 404


@dataclass(frozen=True)
class Sources:
    """Where the facts are.

    Attributes:
        branches: Under it are the branches of Triton's repository.
        notes: Under it are the release notes.
    """

    branches: str = BRANCHES
    notes: str = NOTES

    def of(self, release: str) -> dict[str, tuple[str, str]]:
        """For each part of a release, an address, and how the version is found there."""
        branch = f"{self.branches}/r{release}"
        return {
            "triton": (f"{branch}/TRITON_VERSION", r"^([\d.]+)\s*$"),
            "openvino": (f"{branch}/build.py", r"\"(20\d\d\.\d+\.\d+)\""),
            "onnxruntime": (
                f"{self.branches}/main/docs/introduction/compatibility.md",
                rf"^\| *{re.escape(release)} *\| *(\d+\.\d+\.\d+)[^|]*\|\s*$",
            ),
            "cuda": (
                f"{self.notes}/rel-{release.replace('.', '-')}.html",
                rf"Release {re.escape(release)} is based on (?:NVIDIA )?CUDA ([\d.]*\d)",
            ),
        }


class Reader:
    """Reads each page once."""

    def __init__(self) -> None:
        self._pages: dict[str, str | None] = {}

    def read(self, url: str) -> str | None:
        """The text of a page without its tags; None if there is no such page.

        Raises:
            OSError: The server cannot be reached.
        """
        if url not in self._pages:
            text: str | None
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                    text = answer.read().decode()
                if url.endswith(".html"):
                    text = re.sub(r"<[^>]*>", "", text)
            except urllib.error.HTTPError as error:
                if error.code != _ABSENT:
                    raise
                text = None
            self._pages[url] = text
        return self._pages[url]


def differences(sources: Sources, today: date) -> Iterator[str]:
    """A line for each fact that differs or is not found, and for each release that is missing."""
    reader = Reader()
    for name, release in RELEASES.items():
        for part, (url, pattern) in sources.of(name).items():
            ours, theirs = getattr(release, part), _find(reader, url, pattern)
            if theirs is None:
                yield f"{name}: no version of {part} at {url}"
            elif theirs.split(".")[: ours.count(".") + 1] != ours.split("."):
                yield f"{name}: {part} is {ours} in the table and {theirs} at {url}"
    for name in _months_after(list(RELEASES)[-1], today):
        found = {part: _find(reader, *where) for part, where in sources.of(name).items()}
        if known := ", ".join(f"{part} {version}" for part, version in found.items() if version):
            yield f"{name} is not in the table: {known}"


def main(arguments: list[str] | None = None, today: date | None = None) -> int:
    """0: the table is right. 1: it is not. 69: a page cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.sources", description=__doc__)
    parser.add_argument("--branches", default=BRANCHES, help="Triton's repository, or a mirror")
    parser.add_argument("--notes", default=NOTES, help="Triton's release notes, or a mirror")
    options = parser.parse_args(arguments)
    sources = Sources(options.branches, options.notes)
    try:
        lines = list(differences(sources, today or datetime.now(UTC).date()))
    except OSError as error:
        print(f"error: a source cannot be read: {error}", file=sys.stderr)
        return 69
    print("\n".join(lines) or "the table agrees with its sources")
    return 1 if lines else 0


def _find(reader: Reader, url: str, pattern: str) -> str | None:
    found = re.search(pattern, reader.read(url) or "", re.MULTILINE)
    return found and found[1]


def _months_after(name: str, today: date) -> Iterator[str]:
    year, month = (int(part) for part in name.split("."))
    while (year, month) < (today.year - 2000, today.month):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        yield f"{year}.{month:02}"


if __name__ == "__main__":
    sys.exit(main())

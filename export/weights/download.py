"""Checkpoints by URL: resumable, cached where torch.hub caches, and never half-written under their final name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from export.errors import CheckpointError, SourceUnavailable
from export.network import Architecture, SEResNeXt
from export.weights import Provenance
from export.weights.checkpoint import FileSource, sha256_of_file

if TYPE_CHECKING:
    from export.reporting import Reporter

_TIMEOUT_S = (5.0, 30.0)  # to connect, and between two blocks
_ATTEMPTS = 4
_BLOCK = 1 << 16


@dataclass(frozen=True)
class UrlSource:
    """A checkpoint at an http(s) address."""

    url: str
    kind: str = "url"

    def identity(self, reporter: Reporter) -> str:
        return self._file(reporter).identity(reporter)

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        return self._file(reporter).load(architecture, reporter)

    def _file(self, reporter: Reporter) -> FileSource:
        return FileSource(fetch(self.url, cache_folder(), reporter), self.kind, self.url)


def cache_folder() -> Path:
    """torch.hub's folder of checkpoints, so that what it has downloaded is not downloaded again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


def fetch(url: str, folder: Path, reporter: Reporter) -> Path:
    """Download a file unless it is there, and return its path.

    An interrupted download leaves `<name>.part`, and the next one goes on where it ended. The digest is recorded in `<name>.sha256`, and
    a cached file that no longer has it is refused.

    Raises:
        SourceUnavailable: The server cannot be reached, or does not have the file.
        CheckpointError: The cached file has been changed since it was downloaded.
    """
    path = folder / (Path(urlsplit(url).path).name or "checkpoint")
    record = path.with_name(path.name + ".sha256")
    if path.exists():
        if record.exists() and record.read_text().split()[0] != sha256_of_file(path):
            raise CheckpointError(f"{path} has changed since it was downloaded: delete it and run again")
    else:
        part = path.with_name(path.name + ".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, part, reporter)
            record.write_text(f"{sha256_of_file(part)}  {path.name}\n")
            os.replace(part, path)
        except requests.RequestException as error:
            raise SourceUnavailable(_explain(url, error, part)) from None
        except OSError as error:
            raise SourceUnavailable(f"cannot write {error.filename or part}: {error.strerror}") from None
    return path


def _download(url: str, part: Path, reporter: Reporter) -> None:
    """Bring `part` to its full length, over as many connections as it takes."""
    tag = part.with_name(part.name + ".version")
    for attempt in range(1, _ATTEMPTS + 1):
        start = part.stat().st_size if part.exists() and tag.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                start = 0  # another file by now, or a server that cannot resume
            if version := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                tag.write_text(version)
            try:
                _append(response, part, start, reporter)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                if attempt == _ATTEMPTS:
                    raise
            else:
                tag.unlink(missing_ok=True)
                return


def _append(response: requests.Response, part: Path, start: int, reporter: Reporter) -> None:
    total = start + int(response.headers.get("Content-Length", 0))
    with reporter.transfer(f"downloading {part.stem}", total, start) as advance, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for block in response.iter_content(_BLOCK):
            file.write(block)
            advance(len(block))
        written = file.tell()
    if total and written < total:
        raise requests.ConnectionError(f"the connection ended after {written} of {total} bytes")


def _explain(url: str, error: requests.RequestException, part: Path) -> str:
    if isinstance(error, requests.HTTPError):
        return f"{url}: {error.response.status_code} {error.response.reason}. Download the file by hand and pass its path to --weights"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        reason = "the connection ended early, several times"
    else:
        reason = re.sub(r".*(?:: |\()(\[Errno[^\])]*\][^')]*).*", r"\1", str(error).splitlines()[0])
    message = f"cannot fetch {url}: {reason}"
    if part.exists():
        message += f". {part.stat().st_size / 1e6:.1f} MB are kept in {part}: run again to go on from there"
    return message

"""Checkpoints by URL: downloads can be resumed, and are cached where torch.hub caches.

A file gets its final name only after it was opened as a checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import requests
import urllib3

from seresnext101_triton.export.errors import CheckpointError, SourceUnavailable
from seresnext101_triton.export.network import Architecture, SEResNeXt
from seresnext101_triton.export.weights.address import cache_name, digests, public
from seresnext101_triton.export.weights.checkpoint import FileSource
from seresnext101_triton.export.weights.opening import opened
from seresnext101_triton.export.weights.provenance import Provenance
from seresnext101_triton.server.digest import sha256

if TYPE_CHECKING:
    from seresnext101_triton.export.reporting import Reporter

_TIMEOUT_S = (5.0, 30.0)  # to connect, and between two packets
_ANSWER_S = 60.0  # until the headers are there, however slowly they come
_WINDOW_S = 60.0
_WINDOW_BYTES = 60_000  # what must come within a window: 1 kB/s
_TOTAL_S = 6 * 3600.0
_MAX_BYTES = 8 << 30  # the network with its averages and an optimizer's state takes 1 GB
_ATTEMPTS = 4
_BLOCK = 1 << 16


@dataclass(frozen=True)
class UrlSource:
    """A checkpoint at an http(s) address."""

    url: str
    kind: str = "url"
    ema: bool = False
    _found: dict[str, FileSource] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def identity(self, reporter: Reporter) -> str:
        return self._file(reporter).identity(reporter)

    def load(self, architecture: Architecture, reporter: Reporter) -> tuple[SEResNeXt, Provenance]:
        source = self._file(reporter)
        try:
            return source.load(architecture, reporter)
        except CheckpointError as error:
            try:
                with opened(source.path):
                    pass
            except CheckpointError:  # it is damaged, or torch.hub has left there what is none
                raise CheckpointError(
                    f"{error}. Delete {source.path} to download it again"
                ) from None
            raise

    def _file(self, reporter: Reporter) -> FileSource:
        if self.url not in self._found:
            path = fetch(self.url, cache_folder(), reporter)
            self._found[self.url] = FileSource(path, self.kind, public(self.url), self.ema)
        return self._found[self.url]


def cache_folder() -> Path:
    """torch.hub's folder of checkpoints, so that what it has downloaded is not downloaded again."""
    from platformdirs import user_cache_path

    home = os.environ.get("TORCH_HOME") or user_cache_path("torch")
    return Path(home) / "hub" / "checkpoints"


def fetch(url: str, folder: Path, reporter: Reporter) -> Path:
    """Download a file unless it is there, and return its path.

    An interrupted download leaves `<name>.part`, and the next one goes on where it ended. What does
    not open as a checkpoint is not kept. The digest is recorded in `<name>.sha256`, and a cached
    file that no longer has it is refused. Of two exports that fetch the same URL at once, one waits
    for the other.

    Raises:
        SourceUnavailable: The server cannot be reached, does not have the file, or gives something
            else.
        CheckpointError: The cached file has been changed since it was downloaded.
    """
    path = folder / cache_name(url)
    part = path.with_name(path.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not path.exists():
            with _locked(part, url, reporter) as unfinished:
                if unfinished and not path.exists():
                    _download_checked(url, part, path, reporter)
                    return path
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise SourceUnavailable(_explain(url, error, part)) from None
    except OSError as error:
        raise SourceUnavailable(
            f"cannot write {error.filename or part}: {error.strerror}"
        ) from None
    _require_unchanged(path)
    return path


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _require_unchanged(path: Path) -> None:
    record = _record(path)
    try:
        noted = record.read_text(encoding="utf-8").partition(" ")[0]
    except FileNotFoundError:  # torch.hub's own download
        return
    except (OSError, UnicodeDecodeError):
        noted = ""
    if noted != sha256(path):
        raise CheckpointError(
            f"{path} has changed since it was downloaded: "
            f"delete it and {record.name}, and run again"
        )


@contextmanager
def _locked(part: Path, url: str, reporter: Reporter) -> Iterator[bool]:
    """Lock an unfinished download against other exports.

    Yields:
        Whether it is still unfinished: another export may have finished it in the meantime.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.note(f"  another export is downloading {public(url)}: waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        mine = part.exists() and os.fstat(descriptor).st_ino == part.stat().st_ino
        try:
            yield mine
        finally:
            if mine:
                with suppress(FileNotFoundError):
                    if part.stat().st_size == 0:
                        part.unlink()
    finally:
        os.close(descriptor)


def _download_checked(url: str, part: Path, path: Path, reporter: Reporter) -> None:
    """Download, judge, and only then give it its name."""
    expected = _download(url, part, reporter)
    try:
        for algorithm, digest in expected.items():
            with part.open("rb") as file:
                found = hashlib.file_digest(file, algorithm).hexdigest()
            if found != digest:
                raise CheckpointError(
                    f"its {algorithm} is {found}, and the server says {digest}: run again"
                )
        with opened(part, label="it", filename=path.name):
            pass
    except CheckpointError as error:
        part.unlink(missing_ok=True)
        raise SourceUnavailable(f"what came from {public(url)} is not kept: {error}") from None
    _record(path).write_text(f"{sha256(part)}  {path.name}\n", encoding="utf-8")
    os.replace(part, path)


def _download(url: str, part: Path, reporter: Reporter) -> dict[str, str]:
    """Download `part` to its full length, over several connections where one ends early.

    Returns:
        The digests that the server gives, in hexadecimal, by algorithm.
    """
    tag = part.with_name(part.name + ".version")
    deadline = time.monotonic() + _TOTAL_S
    with _Session() as session:
        for attempt in range(1, _ATTEMPTS + 1):
            start = part.stat().st_size if tag.exists() else 0
            headers = {"Accept-Encoding": "identity"}
            if start:
                headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text(encoding="utf-8")}
            try:
                with _answer(session, url, headers) as response:
                    start = _start_of(response, start)
                    if start < 0:  # what is there is no beginning of this file
                        tag.unlink(missing_ok=True)
                        continue
                    response.raise_for_status()
                    if response.status_code not in (
                        requests.codes.ok,
                        requests.codes.partial_content,
                    ):
                        raise requests.HTTPError("no file", response=response)
                    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
                    if version and not _is_encoded(response):
                        tag.write_text(version, encoding="utf-8")
                    _append(response, part, start, deadline, reporter)
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError):
                if attempt == _ATTEMPTS or time.monotonic() > deadline:
                    raise
            else:
                tag.unlink(missing_ok=True)
                return {} if _is_encoded(response) else digests(response.headers, whole=start == 0)
    raise requests.ConnectionError("the server does not give the rest of what it has begun to give")


class _Session(requests.Session):
    def get_redirect_target(self, response: requests.Response) -> str | None:
        """Where an answer sends us; not from https to a place where everybody reads along."""
        target = super().get_redirect_target(response)
        if (
            target
            and response.url.lower().startswith("https:")
            and urljoin(response.url, target).lower().startswith("http:")
        ):
            raise requests.exceptions.InvalidSchema(
                "it redirects from https to http, where anyone on the way could change the file"
            )
        return target


def _answer(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """The server's answer as far as its headers, within a minute.

    In a thread of its own, because a server that gives a byte now and then keeps every limit of the
    socket.
    """
    answers: queue.Queue[requests.Response | BaseException] = queue.Queue(1)

    def ask() -> None:
        try:
            answers.put(session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S))
        except BaseException as error:  # noqa: BLE001  (the caller raises it again)
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_S)
    except queue.Empty:
        raise requests.Timeout(f"no answer within {_ANSWER_S:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in (
        "",
        "identity",
    )


def _start_of(response: requests.Response, asked: int) -> int:
    """The position in the file at which an answer begins.

    Returns:
        0 where the answer is the whole file, and -1 where it is another part than was asked for.
    """
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        return -1
    if response.status_code != requests.codes.partial_content:
        return 0  # another file by now, or a server that cannot resume
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", f"bytes {asked}-"))
    return asked if asked and given and int(given[1]) == asked and not _is_encoded(response) else -1


def _append(
    response: requests.Response, part: Path, start: int, deadline: float, reporter: Reporter
) -> None:
    """Write a body behind what is there.

    Raises:
        requests.ConnectionError: It ends before its length.
        requests.Timeout: It comes too slowly.
        SourceUnavailable: It is larger than any checkpoint of this network.
    """
    told = response.headers.get("Content-Length", "")
    length = int(told) if re.fullmatch(r"[0-9]{1,18}", told) else 0
    # `read1` gives what has come so far, where `read` waits for a whole block.
    read: Callable[..., bytes] = response.raw.read1
    begun, came = time.monotonic(), 0
    with (
        reporter.transfer(
            f"downloading {part.stem}", 0 if _is_encoded(response) else start + length, start
        ) as advance,
        part.open("r+b") as file,
    ):
        file.truncate(start)
        file.seek(start)
        while block := read(_BLOCK, decode_content=True):
            file.write(block)
            advance(len(block))
            came += len(block)
            now = time.monotonic()
            if file.tell() > _MAX_BYTES or length > _MAX_BYTES:
                raise SourceUnavailable(
                    f"{public(response.url)} gives more than {_MAX_BYTES >> 30} GB: "
                    "that is no checkpoint of this network"
                )
            if now > deadline or (now - begun > _WINDOW_S and came < _WINDOW_BYTES):
                raise requests.Timeout("it comes too slowly")
            if now - begun > _WINDOW_S:
                begun, came = now, 0
    if length and (received := response.raw.tell()) < length:
        raise requests.ConnectionError(
            f"the connection ended after {start + received} of {start + length} bytes"
        )


def _explain(url: str, error: Exception, part: Path) -> str:
    if isinstance(error, requests.HTTPError):
        answer = f"{error.response.status_code} {error.response.reason}"
        return f"{public(url)}: {answer}. Download the file by hand and pass its path as `weights`"
    message = f"cannot fetch {public(url)}: {_reason(error)}"
    if part.exists() and part.stat().st_size:
        size = part.stat().st_size / 1e6
        message += f". {size:.1f} MB are kept in {part}: run again to go on from there"
    return message


def _reason(error: Exception) -> str:
    """Why, without the URL that libraries put into their texts."""
    chain: list[BaseException] = [error]
    while (deeper := _cause(chain[-1])) is not None and len(chain) < 8:
        chain.append(deeper)
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {getattr(cause, 'verify_message', '') or cause.reason}"
        if (
            isinstance(cause, OSError)
            and not isinstance(cause, requests.RequestException)
            and cause.strerror
        ):
            return f"[Errno {cause.errno}] {cause.strerror}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return (
            str(error) if str(error).startswith(("no answer", "it comes")) else "no answer in time"
        )
    if isinstance(
        error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.ProtocolError
    ):
        return "the connection ended early, several times"
    if isinstance(error, requests.exceptions.InvalidSchema) and "No connection adapters" in str(
        error
    ):
        return "it redirects to what is no http(s) URL"
    if isinstance(
        error, requests.ConnectionError | requests.exceptions.InvalidSchema
    ) and not isinstance(error.args[0], Exception):
        return str(error.args[0])
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects again and again"
    return type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    candidates = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    return next(
        (candidate for candidate in candidates if isinstance(candidate, BaseException)), None
    )

"""Uploads to the page: they are measured and bounded, and only the page itself may send them."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_FILES = 16  # of one upload
_REMEMBERED = 1000  # uploads
_OVERHEAD = 1 << 20  # bytes of a request besides its files
_UPLOAD = "/gradio_api/upload"
# Nothing is loaded from another host. Gradio's own scripts and styles are inline in part, and it
# compiles its HTML templates.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' blob: data:",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'self'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Uploads:
    """The uploaded files, in one folder.

    Args:
        folder: Where Gradio keeps them.
        most_bytes: The largest file, in bytes. All files that are kept have at most `MOST_FILES`
            times as much; older ones are removed.

    Attributes:
        seconds: The time that the upload of each file took, in seconds. Files of one upload have
            the time of the whole upload.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self.seconds: OrderedDict[Path, float] = OrderedDict()

    @property
    def most_bytes_together(self) -> int:
        """The largest upload of several files, and the most that is kept, in bytes."""
        return MOST_FILES * self.most_bytes

    def remember(self, paths: list[Path], seconds: float) -> None:
        """Note how long an upload took."""
        self.seconds |= dict.fromkeys(paths, seconds)
        while len(self.seconds) > _REMEMBERED:
            self.seconds.popitem(last=False)

    def remove_oldest(self) -> None:
        """Remove the oldest files until the others are not too large together."""
        found = []
        for path in self.folder.rglob("*"):
            try:
                if path.is_file():
                    facts = path.stat()
                    found.append((facts.st_mtime, facts.st_size, path))
            except OSError:  # it was removed meanwhile
                continue
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > self.most_bytes_together:
                path.unlink(missing_ok=True)


class Guard:
    """ASGI middleware around the page.

    It adds headers that keep the browser from asking other hosts. It refuses requests of pages of
    other sites and uploads that are too large. It measures uploads.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        if refusal := self._refusal(scope):
            await refusal(scope, receive, send_with_headers)
        elif scope["path"] == _UPLOAD and scope["method"] == "POST":
            await self._upload(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        # Browsers name the site whose page sends a request that may change something.
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("Only this page itself may send this request.", 403)
        most = self._uploads.most_bytes_together
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return PlainTextResponse("The request does not say its length.", 411)
        if int(length) > most + _OVERHEAD:
            return PlainTextResponse(
                f"The pictures are refused: together they have more than {most >> 20} MB. Drop "
                "fewer at a time.",
                413,
            )
        return None

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, status, body = time.perf_counter(), 0, b""

        async def listen(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
            await send(message)

        await self._app(scope, receive, listen)
        if status == 200:
            paths = [Path(path) for path in json.loads(body)]
            self._uploads.remember(paths, time.perf_counter() - begin)
        self._uploads.remove_oldest()

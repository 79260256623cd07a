"""Serves the page on one port, until it is interrupted."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from seresnext101_triton.client.errors import ClientError
from seresnext101_triton.client.page.asking import Target

_LONGEST_QUEUE = 16
_GRACE_S = 1  # for requests that run when the page ends. Open tabs hold one for ever
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Place:
    """Where the page is served.

    Attributes:
        address: The interface to listen on.
        port: The port; 0 takes a free one.
        most_bytes: The largest picture that may be uploaded, in bytes.
    """

    address: str = "127.0.0.1"
    port: int = 7860
    most_bytes: int = 32 << 20


def serve(target: Target, place: Place, on_ready: Callable[[str], None]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    This is for a command: it changes the environment of the process, and its handlers of signals.

    Args:
        target: The server that is asked.
        place: Where the page is served.
        on_ready: Called with the address of the page as soon as it answers.

    Raises:
        ClientError: Gradio is not installed, or the address cannot be listened on.
    """
    with _listening(place) as listener, TemporaryDirectory(prefix="page-") as folder:
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        _check_installed()
        _run(target, place, Path(folder), listener, on_ready)


def _check_installed() -> None:
    try:
        import_module("gradio")
    except ImportError as error:
        raise ClientError(
            f"the page needs gradio, which cannot be used here ({error}): run it by `make web`, or "
            "pip install '.[web]' into an environment of its own"
        ) from None


def _listening(place: Place) -> socket.socket:
    try:
        return socket.create_server(
            (place.address, place.port),
            family=socket.AF_INET6 if ":" in place.address else socket.AF_INET,
        )
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise ClientError(
            f"the page cannot listen on {place.address} port {place.port}: {reason}. Name another "
            "`address` or `port`"
        ) from None


def _run(
    target: Target,
    place: Place,
    folder: Path,
    listener: socket.socket,
    on_ready: Callable[[str], None],
) -> None:
    import gradio
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from seresnext101_triton.client.page.layout import STYLE, Page, theme
    from seresnext101_triton.client.page.uploads import Guard, Uploads

    uploads = Uploads(folder, place.most_bytes)
    blocks = Page(target, uploads).blocks()
    blocks.queue(max_size=_LONGEST_QUEUE, api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=place.address,
        server_port=listener.getsockname()[1],
        footer_links=[],
        run_history=False,
        max_file_size=place.most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=STYLE,
    )
    app.add_middleware(Guard, uploads=uploads)
    # A page of another site cannot reach this one by giving its own name this machine's address.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_names_of(place.address))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
    )
    host = f"[{place.address}]" if ":" in place.address else place.address

    class _Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """End at a signal. uvicorn's own method raises the signal again at the end."""
            before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready(f"http://{host}:{listener.getsockname()[1]}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # It would print a traceback for each open tab, whose request it cancels.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    _Server(config).run(sockets=[listener])


def _names_of(address: str) -> list[str]:
    """The names by which a browser may ask for the page."""
    is_loopback = address == "localhost" or address.startswith("127.") or address == "::1"
    return ["localhost", "127.0.0.1", "[::1]", address] if is_loopback else ["*"]

"""One page with the metrics of all servers of a fleet, each sample with the label `replica`.

It is in the text format of Prometheus:
https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format.
"""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from seresnext101_triton.server.ports import LOCALHOST, occupied

# Whether a server has told its metrics now.
UP = "seresnext101_replica_up"
_COMMENT = re.compile(r"# (HELP|TYPE) (\S+)( .*)?")
_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?( \S.*)")
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LARGEST = 16 << 20  # bytes of one server's page
_SERVER_TIMEOUT_S, _CLIENT_TIMEOUT_S = 2.0, 30.0


def merged(pages: Mapping[str, str | None]) -> str:
    """One page of several.

    Args:
        pages: The page of each server, by the value of the label `replica`. None is a server that
            has none now.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, page in pages.items():
        family = ""
        for line in (page or "").splitlines():
            if comment := _COMMENT.fullmatch(line):
                family = comment[2]
                heads.setdefault(family, {}).setdefault(comment[1], line)
            elif sample := _SAMPLE.fullmatch(line):
                name, labels, value = sample.groups()
                # The samples of a histogram have longer names than the family.
                of = family if family and name.startswith(family) else name
                label = f'replica="{replica}"' + (f",{labels}" if labels else "")
                samples.setdefault(of, []).append(f"{name}{{{label}}}{value}")
    lines = [f"# HELP {UP} Whether a server of the fleet answers", f"# TYPE {UP} gauge"]
    lines += [f'{UP}{{replica="{name}"}} {int(page is not None)}' for name, page in pages.items()]
    for family in heads | samples:
        lines += [*heads.get(family, {}).values(), *samples.get(family, [])]
    return "\n".join(lines) + "\n"


class MetricsPage:
    """The page at a port, from the time when it is made until `close`.

    Args:
        address: The interface to listen on.
        port: The port to listen on.

    Raises:
        PortInUse: Another process listens on the port.
    """

    def __init__(self, address: str, port: int) -> None:
        self._sources: Mapping[str, int] = {}
        try:
            self._server = _Listener(address, port, self)
        except OSError:
            raise occupied(address, "metrics", port) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def show(self, sources: Mapping[str, int]) -> None:
        """Show other servers: the port for metrics of each, by the value of `replica`."""
        self._sources = dict(sources)

    def text(self) -> str:
        """The page now. Servers that do not answer within two seconds are left out."""
        sources = self._sources
        with ThreadPoolExecutor(max(1, len(sources))) as pool:
            return merged(dict(zip(sources, pool.map(_page, sources.values()), strict=True)))

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _page(port: int) -> str | None:
    """The metrics of a server on this machine; None if it does not answer."""
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=_SERVER_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        answer = connection.getresponse()
        text = answer.read(_LARGEST).decode(errors="replace")
        return text if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int, page: MetricsPage) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.page = page
        super().__init__((address, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S
    server: _Listener

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(http.client.NOT_FOUND)
            return
        content = self.server.page.text().encode()
        self.send_response(http.client.OK)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

"""The page with the metrics of all servers of a fleet, over real sockets."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from seresnext101_triton.server.errors import PortInUse
from seresnext101_triton.server.fleet import metrics as module
from seresnext101_triton.server.fleet.metrics import UP, MetricsPage, merged
from seresnext101_triton.server.ports import Ports


@contextmanager
def answering(status: int, content: bytes) -> Iterator[int]:
    """A server that answers every request so; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 500)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def fetched(host: str, port: int, path: str) -> tuple[int, str | None, str]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_page_shows_the_servers_that_answer(host):
    port = Ports(0, 0, 0).resolve(host).metrics
    page = MetricsPage(host, port)
    try:
        assert fetched(host, port, "/metrics")[2].splitlines() == [
            f"# HELP {UP} Whether a server of the fleet answers",
            f"# TYPE {UP} gauge",
        ]
        with (
            answering(200, b'# TYPE a counter\na{m="x"} 1\nb\xff 2\nc 3\n') as whole,
            answering(503, b"a 9\n") as broken,
        ):
            closed = Ports(0, 0, 0).resolve("127.0.0.1").metrics
            page.show({"0": whole, "1": closed, "2": broken})
            status, kind, text = fetched(host, port, "/metrics?x=1")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert text.splitlines()[2:] == [
            f'{UP}{{replica="0"}} 1',
            f'{UP}{{replica="1"}} 0',
            f'{UP}{{replica="2"}} 0',
            "# TYPE a counter",
            'a{replica="0",m="x"} 1',
            'c{replica="0"} 3',
        ]
        assert fetched(host, port, "/")[0] == 404
        with pytest.raises(PortInUse, match=f"{port}"):
            MetricsPage(host, port)
    finally:
        page.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, port), 60):
        pass


def test_a_server_that_hangs_is_left_out():
    """It takes connections and answers none; what others say comes nevertheless."""
    port = Ports(0, 0, 0).resolve("127.0.0.1").metrics
    page = MetricsPage("127.0.0.1", port)
    try:
        with socket.create_server(("127.0.0.1", 0)) as hung, answering(200, b"a 1\n") as whole:
            page.show({"0": hung.getsockname()[1], "1": whole})
            lines = page.text().splitlines()
        assert lines[2:] == [f'{UP}{{replica="0"}} 0', f'{UP}{{replica="1"}} 1', 'a{replica="1"} 1']
    finally:
        page.close()


def test_a_page_of_more_than_16_mib_is_cut():
    with answering(200, b"#" * (16 << 20) + b"1") as server:
        page = module._page(server)
    assert page is not None and len(page) == 16 << 20 and page.endswith("#")


def test_the_merged_page_keeps_families_together():
    first = (
        '# HELP a An a\n# TYPE a counter\na{model="m"} 1\n'
        '# HELP h A h\n# TYPE h histogram\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\nlone 5\n'
    )
    text = merged({"0": first, "1": first.replace(" 1\n", " 7\n"), "2": None})
    assert text.splitlines()[2:] == [
        f'{UP}{{replica="0"}} 1',
        f'{UP}{{replica="1"}} 1',
        f'{UP}{{replica="2"}} 0',
        "# HELP a An a",
        "# TYPE a counter",
        'a{replica="0",model="m"} 1',
        'a{replica="1",model="m"} 7',
        "# HELP h A h",
        "# TYPE h histogram",
        *(
            f'{name}{{replica="{n}"{label}}} {value}'
            for n in "01"
            for name, label, value in (
                ("h_bucket", ',le="+Inf"', 2),
                ("h_sum", "", 3),
                ("h_count", "", 2),
            )
        ),
        'lone{replica="0"} 5',
        'lone{replica="1"} 5',
    ]

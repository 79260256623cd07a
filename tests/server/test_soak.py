"""What is read from Triton's counts of failed requests, over a real socket."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat

import pytest

from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server import soak as module
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.soak import failed_share, soak

LONG_S = 20.0


def page(failed: int, answered: int, version: str = "3", model: str = "m") -> str:
    """Half of the failures, rounded up, are the backend's. Many more are the callers' own."""
    which = f'model="{model}",version="{version}"'
    failures = {"BACKEND": -(-failed // 2), "OTHER": failed // 2, "REJECTED": 90, "CANCELED": 80}
    return f"nv_inference_request_success{{{which}}} {answered}\n" + "".join(
        f'nv_inference_request_failure{{{which},reason="{reason}"}} {count}\n'
        for reason, count in failures.items()
    )


@contextmanager
def telling(*pages: str) -> Iterator[Launch]:
    """A server that tells these pages of metrics, one after the other, and the last one again."""
    left = chain(pages, repeat(pages[-1]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(next(left).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield launch(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def launch(port: int) -> Launch:
    facts = {"pid": 1, "repository": "r", "grpc": 11, "http": 12, "metrics": port, "key": "k"}
    others = {"address": "127.0.0.1", "restricted": (), "workspace": "", "shared_memory": ""}
    return Launch(**facts | others)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_POLL_S", 0.01)


def test_the_share_of_failures_is_that_of_all_versions_of_the_model():
    pages = page(1, 5) + page(2, 4, version="2") + page(50, 50, model="other")
    with telling(pages) as server:
        assert failed_share(server, "m") == pytest.approx(3 / 12)
        assert failed_share(server, "other") == 0.5
        assert failed_share(server, "unknown") == 0.0
    with telling(page(0, 5)) as server:
        assert failed_share(server, "m") == 0.0


def test_ten_failures_end_it_at_once():
    before = page(5, 100) + page(0, 0, version="2")
    pages = page(14, 190) + page(70, 9, version="2"), page(15, 190), page(15, 9999)
    with telling(before, *pages) as server:
        message = r"version 3 of model 'm' at .*:11 fails: 10 of 100 requests \(8\.5% before\)"
        with pytest.raises(LoadError, match=message):
            soak(server, "m", 3, LONG_S, 0.085)


@pytest.mark.parametrize(("before", "is_worse"), [(0.089, True), (0.095, False)])
def test_fewer_failures_count_at_the_end(before, is_worse):
    """One of ten: the share may rise by a hundredth."""
    with telling(page(0, 0), page(0, 0), page(1, 9)) as server:
        if is_worse:
            with pytest.raises(LoadError, match="fails: 1 of 10 requests"):
                soak(server, "m", 3, 0.2, before)
        else:
            soak(server, "m", 3, 0.2, before)


def test_counts_that_begin_again_are_taken_as_they_are():
    """The model was loaded again meanwhile."""
    with telling(page(30, 500), page(10, 30), page(0, 0)) as server:
        with pytest.raises(LoadError, match=r"fails: 10 of 40 requests"):
            soak(server, "m", 3, LONG_S, 0.0)


def test_a_server_that_has_died_is_told():
    with pytest.raises(ServerError, match="tells no metrics: it does not answer, and may"):
        soak(launch(1), "m", 3, 1.0, 0.0)


def test_nothing_is_asked_if_nothing_is_watched():
    soak(launch(9), "m", 3, 0.0, 0.0)


def test_a_server_without_metrics_is_told():
    with (
        telling("none") as server,
        pytest.raises(ServerError, match="11 tells no metrics: what an"),
    ):
        soak(server, "m", 3, 1.0, 0.0)

"""The check of the table of releases against its sources, on a server with pages like theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seresnext101_triton.server.releases import RELEASES
from tests.server.sources import main

LAST = list(RELEASES)[-1]
YEAR, MONTH = 2000 + int(LAST[:2]), int(LAST[3:])
TODAY = date(YEAR, MONTH, 1)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for name, release in RELEASES.items():
        branch = tmp_path / f"r{name}"
        branch.mkdir()
        (branch / "TRITON_VERSION").write_text(f"{release.triton}\n")
        (branch / "build.py").write_text(
            f'MAP = {{\n    "ort_version": "{release.onnxruntime}",\n'
            f'    "standalone_openvino_version": "{release.openvino}",\n}}\n'
        )
        (tmp_path / f"rel-{name.replace('.', '-')}.html").write_text(
            f"<p>Release {name} is based on <a href='x'>CUDA {release.cuda}</a> which requires</p>"
        )
    rows = [f"| {name} | {each.onnxruntime}+1d1712f |\n" for name, each in RELEASES.items()]
    docs = tmp_path / "main/docs/introduction"
    docs.mkdir(parents=True)
    (docs / "compatibility.md").write_text(
        f"| {LAST} | an image | 9.9.9 |\n\n## ONNX Runtime Versions\n\n{''.join(rows)}"
    )
    return tmp_path


@pytest.fixture
def arguments(pages: Path) -> Iterator[list[str]]:
    handler = partial(Silent, directory=str(pages))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield ["--branches", url, "--notes", url]
        server.shutdown()
        thread.join()


def test_a_table_that_agrees(arguments, capsys):
    assert main(arguments, TODAY) == 0
    assert capsys.readouterr().out == "the table agrees with its sources\n"


def test_what_differs_and_what_is_not_found(pages, arguments, capsys):
    (pages / f"r{LAST}" / "TRITON_VERSION").write_text("2.0.0\n")
    (pages / f"r{LAST}" / "build.py").unlink()
    assert main(arguments, TODAY) == 1
    first, second = capsys.readouterr().out.splitlines()
    ours = RELEASES[LAST].triton
    assert first.startswith(f"{LAST}: triton is {ours} in the table and 2.0.0 at http://")
    assert second.startswith(f"{LAST}: no version of openvino at http://")


def test_releases_that_the_table_lacks(pages, arguments, capsys):
    newer = f"{YEAR + 1 - 2000}.01"
    (pages / f"rel-{newer.replace('.', '-')}.html").write_text(
        f"Release {newer} is based on NVIDIA CUDA 99.0.1, which requires"
    )
    assert main(arguments, date(YEAR + 1, 2, 1)) == 1
    assert capsys.readouterr().out == f"{newer} is not in the table: cuda 99.0.1\n"


def test_sources_that_cannot_be_reached(capsys):
    nowhere = "http://127.0.0.1:9"
    assert main(["--branches", nowhere, "--notes", nowhere], TODAY) == 69
    assert capsys.readouterr().err.startswith("error: a source cannot be read: ")

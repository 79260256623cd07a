"""The notebook runs from its first cell to its last one, against the real server."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import PHOTOGRAPHS, sample_photographs

PROJECT = Path(__file__).parents[2]
NOTEBOOK = PROJECT / "examples" / "quickstart.ipynb"
DEADLINE_S = 600  # of one cell, on a loaded machine


class Quiet(SimpleHTTPRequestHandler):
    """A web server that does not write a line for each request."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def photographs_on_the_web():
    """The photographs behind a web server on this machine."""
    handler = partial(Quiet, directory=str(PHOTOGRAPHS))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def executed(parameters: str, folder: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """Run the notebook with other parameters: the outputs of each cell by the cell's name."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    cells["parameters"].source += f"\n{parameters}"
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=DEADLINE_S, resources=resources).execute()
    return {name: cell.outputs for name, cell in cells.items()}


def text(outputs: list[nbformat.NotebookNode]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_shows_files_and_addresses_of_the_web_with_their_classes(
    server, photographs_on_the_web, tmp_path, monkeypatch
):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("TRITON_URL", server.url)
    file, other = sample_photographs()[:2]
    address = f"{photographs_on_the_web}/{other.name}"
    missing = tmp_path / "missing.jpg"
    images = [str(file), address, str(missing)]
    folder = tmp_path / "empty"
    folder.mkdir()
    cells = executed(f"MODEL = 'tiny_onnx'\nIMAGES = {images}", folder)

    assert "tiny_torchscript, version 1: 1000 classes" in text(cells["server"])
    assert "untrained" in text(cells["model"])
    lines = text(cells["answers"]).splitlines()
    expected = []
    with Classifier(server.url, "tiny_onnx") as classifier:
        for name, path in ((str(file), file), (address, other)):
            expected.append(name)
            expected += [
                f"  {each.probability:7.2%}  {each.label}" for each in classifier.classify(path)
            ]
    assert lines == [*expected, f"{missing}: {missing} does not exist"]
    (drawn,) = cells["gallery"]
    assert drawn.data["image/png"]
    assert "output float32 (2, 1000)" in text(cells["tensors"])
    assert text(cells["thousand"]).startswith("1000 pictures, 0 failed, ")
    assert text(cells["two"]).count("tiny_onnx and logits_torchscript") == 2
    assert "does not serve model 'no-such-model'" in text(cells["errors"])
    assert list(folder.iterdir()) == []


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None

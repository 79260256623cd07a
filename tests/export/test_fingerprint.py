"""Keys of artifacts and caches: they change with the code that makes something, and only then."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from seresnext101_triton.export.fingerprint import _files, source_digest
from seresnext101_triton.export.format import Format
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.keys import sources_of

EXPORTER = Format.__module__.rpartition(".")[0]
PLAIN = '''"""A module."""

RATE = 2


def twice(x: int) -> int:
    """Double a number."""
    return RATE * x
'''
# Modules that a source imports and that cannot change an artifact: they check, report, move or
# describe it, or the key contains their decision.
HARMLESS = {
    "seresnext101_triton.server.digest",
    "seresnext101_triton.server.folders",
    "seresnext101_triton.export.errors",
    "seresnext101_triton.export.filesystem",
    "seresnext101_triton.export.fingerprint",
    "seresnext101_triton.export.format",
    "seresnext101_triton.export.formats.openvino",  # runs quantised graphs for the quantiser
    "seresnext101_triton.export.material",
    "seresnext101_triton.export.onnx.gate",
    "seresnext101_triton.export.gate",
    "seresnext101_triton.export.parity",
    "seresnext101_triton.export.precision",
    "seresnext101_triton.export.reporting",
    "seresnext101_triton.export.samples",
    "seresnext101_triton.export.serving",
    "seresnext101_triton.export.speed",
    "seresnext101_triton.export.weights.download",  # says where the cache is
    "seresnext101_triton.export.yardstick",
}


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest_of(source: str) -> str:
        (tmp_path / "some_module.py").write_text(source)
        source_digest.cache_clear()
        return source_digest("some_module")

    yield digest_of
    source_digest.cache_clear()


@pytest.mark.parametrize(
    "change",
    [
        ("RATE = 2", "RATE = 2  # images"),
        ("A module", "Some module"),
        ('    """Double a number."""\n', ""),
        ("RATE * x", "(RATE\n        * x)"),
    ],
)
def test_comments_docstrings_and_layout_change_no_digest(digest_of, change):
    assert digest_of(PLAIN) == digest_of(PLAIN.replace(*change))


@pytest.mark.parametrize(
    "change", [("RATE = 2", "RATE = 3"), ("RATE * x", "RATE + x"), ("twice", "double")]
)
def test_any_other_change_does(digest_of, change):
    assert digest_of(PLAIN) != digest_of(PLAIN.replace(*change))


def test_a_package_is_all_its_modules():
    names = {path.stem for path in _files("seresnext101_triton.export.tensorrt")}
    assert {"builder", "format", "trtexec"} <= names
    assert "seresnext101_triton.export.tensorrt.builder" not in sys.modules  # it is read, not run
    assert source_digest("seresnext101_triton.export.tensorrt") != source_digest(
        "seresnext101_triton.export.tensorrt.plan"
    )
    with pytest.raises(ModuleNotFoundError, match="export.nothing has no source file"):
        source_digest("export.nothing")


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_no_module_that_makes_an_artifact_is_missing_from_its_key(format):
    """Each module of the exporter that a source imports is in the key, or is listed as harmless."""
    for precision in format.precisions:
        sources = sources_of(format, precision)
        paths = [path for name in sources for path in _files(name)]
        imported = {name for path in paths for name in imports_of(path)}
        assert {
            name
            for name in imported
            if not any(f"{name}.".startswith(f"{source}.") for source in sources)
        } <= HARMLESS


def imports_of(path: Path) -> set[str]:
    """The exporter's modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and f"{node.module}.".startswith(f"{EXPORTER}.")
        ):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if is_module(module) else node.module)
    return found


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def test_the_imports_of_a_file_are_found():
    """Else the test above would prove nothing."""
    assert {f"{EXPORTER}.format", f"{EXPORTER}.tensorrt.plan"} <= imports_of(
        _files(f"{EXPORTER}.tensorrt.format")[0]
    )

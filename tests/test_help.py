"""The help of every package is printed at once: `--help` loads none of the heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from seresnext101_triton.client.parser import Parser

HEAVY = {
    *("numpy", "PIL", "torch", "onnx", "onnxruntime", "tritonclient", "grpc", "rich"),
    *("openvino", "platformdirs", "requests", "safetensors", "urllib3", "scipy", "psutil"),
}


@pytest.mark.parametrize("package", ["client", "export", "perf", "server", "server.fleet"])
def test_help_is_complete_and_light(package):
    script = (
        f"import sys\nfrom seresnext101_triton.{package}.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as exit_:\n    assert exit_.code == 0\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stderr == "[]\n"
    for words in (f"usage: python -m {package}", "examples:", "exit codes:"):
        assert words in result.stdout


def test_paragraphs_are_as_wide_as_the_terminal_and_lists_stay(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lists = "exit codes:\n  0   everything was done, in more words than a line has\n  1   not"
    parser = Parser(prog="p", description=f"{'word ' * 20}\n\nA short\nparagraph.", epilog=lists)
    _, *paragraphs = parser.format_help().split("\n\n")
    assert paragraphs[0].split("\n") == ["word " * 6 + "word"] * 2 + ["word " * 5 + "word"]
    assert (paragraphs[1], paragraphs[-1]) == ("A short paragraph.", f"{lists}\n")

"""The help of every package is printed at once: `--help` loads none of the heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

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

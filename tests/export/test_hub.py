"""Weights through torch.hub, from a clone of a repository with NVIDIA's entry point.

The repository's code runs in a process of its own and has no effect on this one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seresnext101_triton.export.errors import SourceUnavailable
from seresnext101_triton.export.network import SEResNeXt
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.weights import resolve
from tests.conftest import QUIET, TINY, tiny_request

HUBCONF = """
import torch

class Model(torch.nn.Module):
    def __init__(self, state):
        super().__init__()
        self._state = state

    def state_dict(self):
        return self._state

def nvidia_se_resnext101_32x4d(pretrained=False):
    assert pretrained
    return Model(torch.load({path!r}))
"""

# What NVIDIA's own repository does to sys.path, and more.
HOSTILE = """
import atexit, os, sys, warnings
import torch

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "shadows"))
for name in ("triton", "onnx", "onnxscript", "safetensors"):
    sys.modules.pop(name, None)
import triton, onnx
assert triton.__file__.startswith(here), triton.__file__
os.environ["OMP_NUM_THREADS"] = "no number"
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.set_num_threads(1)
torch.manual_seed(1)
print("a stranger prints")
print("a stranger complains", file=sys.stderr)
warnings.warn("a stranger warns")
sys.stdout.close()
atexit.register(os._exit, 7)
"""


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return SEResNeXt(TINY).eval()


def repository(folder: Path, network, before: str = "") -> Path:
    """A clone that gives the network's weights."""
    folder.mkdir()
    state = {
        key: value.flatten(1) if ".squeeze." in key and value.ndim == 4 else value
        for key, value in network.state_dict().items()
    }
    torch.save(state, folder / "weights")
    (folder / "hubconf.py").write_text(before + HUBCONF.format(path=str(folder / "weights")))
    for name in ("triton", "onnx", "numpy"):
        shadow = folder / "shadows" / name
        shadow.mkdir(parents=True)
        (shadow / "__init__.py").write_text("")
    return folder


def test_the_entry_points_weights_are_used(tmp_path, network):
    source = resolve(f"hub:{repository(tmp_path / 'clone', network)}")
    loaded, provenance = source.load(TINY, QUIET)
    gate = "layers.0.0.squeeze.squeeze.weight"
    assert torch.equal(loaded.get_parameter(gate), network.get_parameter(gate))
    assert (provenance.kind, provenance.location, provenance.trained) == (
        "hub",
        str(tmp_path / "clone"),
        True,
    )
    assert source.identity(QUIET) == provenance.sha256


def settings() -> tuple[object, ...]:
    """What the hostile repository changes."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return (
        list(sys.path),
        threads,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )


def test_a_strangers_code_reaches_nothing_and_the_export_goes_on(tmp_path, network, capfd):
    clone = repository(tmp_path / "clone", network, HOSTILE)
    before = settings()
    modules = {name: sys.modules.get(name) for name in ("numpy", "onnx", "triton")}
    outcomes = export(
        tiny_request(tmp_path / "models", weights=f"hub:{clone}", formats=("onnx",)), QUIET
    )
    assert [outcome.made for outcome in outcomes] == [True]
    assert settings() == before
    assert all(sys.modules.get(name) is module for name, module in modules.items() if module)
    assert not any(
        getattr(sys.modules.get(name), "__file__", None)
        == str(clone / "shadows" / name / "__init__.py")
        for name in modules
    )
    shown = "".join(capfd.readouterr())
    assert "stranger" not in shown


@pytest.mark.parametrize(
    ("hubconf", "reason"),
    [
        ("raise ImportError('no module\\n named that')", "ImportError: no module"),
        ("pass", "RuntimeError: Cannot find callable nvidia_se_resnext101_32x4d in hubconf"),
        ("import sys; sys.exit(0)", r"SystemExit: 0 \(its code ended its own process\)"),
        (
            "import os; print('last', chr(27), 'words', flush=True); os._exit(0)",
            r"its process ended with code 0, without weights; its last line is: last \\x1b words",
        ),
        ("import ctypes; ctypes.string_at(0)", "its process was ended by SIGSEGV, without weights"),
        (
            "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1/')",
            "URLError: <urlopen error .*Connection refused",
        ),
    ],
)
def test_a_repository_that_fails_is_one_line_with_a_way_out(tmp_path, hubconf, reason):
    (tmp_path / "hubconf.py").write_text(hubconf)
    with pytest.raises(
        SourceUnavailable,
        match=f"torch.hub cannot load nvidia_se_resnext101_32x4d.*{reason}.*`weights=ngc`",
    ) as error:
        resolve(f"hub:{tmp_path}").identity(QUIET)
    assert str(error.value).isprintable()
    assert error.value.exit_code == 69


def test_what_it_hands_over_is_judged_as_any_checkpoint(tmp_path):
    forged = (
        "import os, sys, pathlib\nfolder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'weights.safetensors').write_bytes(b'<html>')\nos._exit(0)"
    )
    (tmp_path / "hubconf.py").write_text(forged)
    with pytest.raises(SourceUnavailable, match=r"is a web page \(HTML\)"):
        resolve(f"hub:{tmp_path}").identity(QUIET)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_code_that_hangs_ends_with_the_export(tmp_path, number):
    """And so does what it has started."""
    (tmp_path / "hubconf.py").write_text(
        "import os, pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pids.part')"
        ".write_text(f'{os.getpid()} {child.pid}')\n"
        f"os.rename({str(tmp_path / 'pids.part')!r}, {str(tmp_path / 'pids')!r})\n"
        "time.sleep(600)\n"
    )
    command = [
        sys.executable,
        "-m",
        "export",
        "--weights",
        f"hub:{tmp_path}",
        "--repository",
        str(tmp_path / "models"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "pids").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    # Both were killed before the export ended; the kernel may need a moment.
    while any(is_running(pid) for pid in pids):
        time.sleep(0.05)

"""Importing and using the library changes no state of the process; only a command changes any."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server import runtimes
from tests.test_structure import MAY_IMPORT, MODULES

SNAPSHOT = """
import locale, logging, os, signal, sys, threading, warnings
def snapshot():
    loggers = {name: logger.level for name, logger in logging.root.manager.loggerDict.items() \
if isinstance(logger, logging.Logger)}
    state = {
        "environment": dict(os.environ),
        "signals": {number.name: repr(signal.getsignal(number)) \
for number in signal.valid_signals() if isinstance(number, signal.Signals)},
        "levels": {name: level for name, level in loggers.items() if level},
        "logging": (logging.root.level, logging.root.manager.disable, \
[repr(handler) for handler in logging.root.handlers]),
        "warnings": ([repr(each) for each in warnings.filters], repr(warnings.showwarning)),
        "affinity": sorted(os.sched_getaffinity(0)),
        "threads": [thread.name for thread in threading.enumerate()],
        "hooks": (repr(sys.excepthook), repr(sys.unraisablehook), repr(threading.excepthook)),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
    }
    if "PIL.Image" in sys.modules:
        state["Pillow"] = (sys.modules["PIL.Image"].core.get_blocks_max(), \
sys.modules["PIL.Image"].MAX_IMAGE_PIXELS)
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].geterr()
    if "torch" in sys.modules:
        state["torch"] = (sys.modules["torch"].get_num_threads(), \
repr(sys.modules["torch"].get_default_dtype()))
    return state
"""
# Other packages' imports may change the process, so that they are imported first.
IMPORTS = """
import importlib, json, sys
names, others = json.load(sys.stdin)
for other in others:
    try:
        importlib.import_module(other)
    except Exception:
        pass
before, changed, missing = snapshot(), {}, []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing.append((name, error.name))
    after = snapshot()
    if after != before:
        changed[name] = [part for part in after if after[part] != before[part]]
    before = after
json.dump([changed, missing], sys.stdout)
"""
NOT_HERE = {
    "gradio",
    "starlette",
    "tensorrt",
    "triton_python_backend_utils",
    "litserve",
    "fastapi",
    "uvicorn",
    "cuda",
}


def other_imports(package: str) -> list[str]:
    """The modules of others that a package imports anywhere, by their dotted names."""
    import ast

    found = set()
    for name, path in MODULES.items():
        if name.partition(".")[0] in MAY_IMPORT[package]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(name for name in found if name.partition(".")[0] != "seresnext101_triton")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_an_import_changes_nothing(package):
    names = sorted(
        f"seresnext101_triton.{name}" for name in MODULES if name.partition(".")[0] == package
    )
    child = subprocess.run(
        [sys.executable, "-c", SNAPSHOT + IMPORTS],
        input=json.dumps([names, other_imports(package)]),
        capture_output=True,
        text=True,
        check=True,
    )
    changed, missing = json.loads(child.stdout.splitlines()[-1])
    assert changed == {}
    assert {cause for _, cause in missing} <= NOT_HERE, missing


def state() -> dict[str, object]:
    """What a use of the library must leave as it was."""
    from PIL import Image

    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "logging": (logging.root.level, logging.root.manager.disable),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "affinity": os.sched_getaffinity(0),
        "threads": {
            thread.name
            for thread in threading.enumerate()
            if not thread.name.startswith("classify")
        },
        "Pillow": (Image.core.get_blocks_max(), Image.MAX_IMAGE_PIXELS),  # type: ignore[attr-defined]
        "numpy": np.geterr(),
    }


def test_a_classifier_changes_nothing(server):
    with Classifier(server.url, "tiny_onnx") as classifier:
        classifier.classify_all(sample_photographs())  # imports what is imported at the first use
    before = state()
    with Classifier(server.url, "tiny_onnx") as classifier:
        classifier.classify_all(sample_photographs())
    assert state() == before


@pytest.mark.parametrize(
    ("runtime", "model", "artifact"),
    [("torchscript", "tiny_torchscript", "model.pt"), ("onnxruntime", "tiny_onnx", "model.onnx")],
)
def test_a_runtime_changes_nothing(repository: Path, runtime, model, artifact):
    path = repository / model / "1" / artifact
    batch = np.zeros((1, 3, 64, 64), np.float32)
    runtimes.load(runtime, path, {}).run(batch)
    before = state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runtimes.load(runtime, path, {}).run(batch)
    assert state() == before and not caught

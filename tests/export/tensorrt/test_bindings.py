"""The stand-in, and our own code, held against NVIDIA's own bindings of TensorRT 10.16 and 11.1.

The wheels of the bindings need TensorRT's libraries, which need the driver of a GPU. The bindings
call nine functions of those libraries, and none of them on import. With nine empty functions in
their place, the real modules can be imported and their classes and signatures read.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.tensorrt.conftest import STANDINS, compile_library

PROJECT = Path(__file__).parents[3]
USERS = [
    path
    for package in ("export", "server")
    for path in PROJECT.glob(f"{package}/**/*.py")
    if "import tensorrt as trt" in path.read_text() or path.name in ("listening.py", "engine.py")
]
VERSIONS = {"10": "10.16.1.11", "11": "11.1.0.106"}

_EMPTY = "".join(
    f"void *{name}(void) {{ return 0; }}\n"
    for name in [
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getBuilderPluginRegistry",
        "getNvOnnxParserVersion",
        "getPluginRegistry",
        "initLibNvInferPlugins",
    ]
)

# Prints every class with its members: for a method the docstring, which pybind11 begins with the
# signature; for an enum member its number.
_PROBE = """
import inspect, json
import tensorrt_bindings as trt

def members(cls):
    names = getattr(cls, "__members__", {})
    return {
        name: int(names[name]) if name in names else inspect.getattr_static(cls, name).__doc__ \
if callable(getattr(cls, name)) else ""
        for name in dir(cls) if not name.startswith("_") or name == "__init__"
    }

def classes(owner, prefix=""):
    for name, value in vars(owner).items():
        if inspect.isclass(value) and not name.startswith("_"):
            yield prefix + name, members(value)
            if not prefix:
                yield from classes(value, name + ".")

print(json.dumps({"version": trt.__version__, "classes": dict(classes(trt))}))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict[str, dict]:
    """The real classes of each major version."""
    found = {}
    for major in VERSIONS:
        wheel = Path(sys.prefix, "tensorrt", major)
        assert wheel.is_dir(), f"{wheel} is missing: make clean install"
        libraries = tmp_path_factory.mktemp(f"tensorrt-{major}")
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            compile_library(_EMPTY, libraries / f"lib{name}.so.{major}")
        environment = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(wheel)}
        result = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        found[major] = json.loads(result.stdout)
    return found


@pytest.fixture
def standin(tensorrt):
    return tensorrt()


def classes_of(module) -> dict[str, type]:
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and not name.startswith("_")
    }
    return found | {"ILogger.Severity": module.ILogger.Severity}


@pytest.mark.parametrize("major", VERSIONS)
def test_these_are_the_bindings_that_are_meant(real, major):
    assert real[major]["version"] == VERSIONS[major]
    assert len(real[major]["classes"]) > 100


@pytest.mark.parametrize("major", VERSIONS)
def test_the_stand_in_offers_nothing_that_the_real_one_lacks(real, standin, major):
    classes = real[major]["classes"]
    for name, cls in classes_of(standin).items():
        inherited = (
            dir(bytes)
            if issubclass(cls, bytes)
            else dir(int)
            if hasattr(cls, "__members__")
            else ()
        )
        ours = {
            member for member in dir(cls) if not member.startswith("_") and member not in inherited
        } - {"Severity"}
        assert ours <= set(classes[name]), f"{name}: {ours - set(classes[name])}"


@pytest.mark.parametrize("major", VERSIONS)
def test_the_stand_ins_methods_take_the_real_ones_parameters(real, standin, major):
    checked = 0
    for name, cls in classes_of(standin).items():
        for method, function in inspect.getmembers(cls, inspect.isfunction):
            if method.startswith("_") or hasattr(cls, "__members__"):
                continue
            signatures = re.findall(
                rf"^(?:\d+\. )?{method}\((.*)\) ->",
                real[major]["classes"][name][method],
                flags=re.MULTILINE,
            )
            theirs = [
                re.findall(r"(\w+): ", re.sub("<[^>]*>", "", signature)) for signature in signatures
            ]
            assert list(inspect.signature(function).parameters) in theirs, (
                f"{name}.{method}: {theirs}"
            )
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("major", VERSIONS)
def test_the_methods_we_override_have_the_real_ones_parameters(real, standin, major):
    from seresnext101_triton.export.tensorrt import builder

    for ours, theirs in ((builder._Log, "ILogger"), (builder._Progress, "IProgressMonitor")):
        overridden = [
            name
            for name in vars(ours)
            if name in real[major]["classes"][theirs] and name != "__init__"
        ]
        assert overridden
        for name in overridden:
            (signature,) = re.findall(rf"{name}\((.*)\) ->", real[major]["classes"][theirs][name])
            assert list(inspect.signature(getattr(ours, name)).parameters) == re.findall(
                r"(\w+): ", signature
            )


@pytest.mark.parametrize("major", VERSIONS)
def test_a_parsers_errors_have_the_real_names(real, major):
    """The stand-in's parser has no errors; the one of TensorRT for RTX has."""
    classes = real[major]["classes"]
    assert {"num_errors", "get_error"} <= set(classes["OnnxParser"])
    assert {"desc", "node_name", "node_operator"} <= set(classes["ParserError"])


def test_the_number_of_strongly_typed_differs_between_the_two(real, tensorrt):
    """So it is never written down; the stand-in has each version's own."""
    for major, number in {"10": 1, "11": 0}.items():
        assert real[major]["classes"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == number
        assert number == tensorrt(VERSIONS[major]).NetworkDefinitionCreationFlag.STRONGLY_TYPED


def test_our_code_names_nothing_that_11_removed(real):
    """No removed name is used, as an attribute of any object.

    Attributes of the toolkit's own build specs are left out: they have a `precision` too.
    """
    assert len(USERS) == 4
    members = {
        major: {name for cls in found["classes"].values() for name in cls} | set(found["classes"])
        for major, found in real.items()
    }
    removed = members["10"] - members["11"]
    assert {
        "FP16",
        "int8_calibrator",
        "platform_has_fast_fp16",
        "OBEY_PRECISION_CONSTRAINTS",
    } <= removed
    for path in [*USERS, STANDINS / "tensorrt/__init__.py"]:
        attributes = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        ]
        used = {node.attr for node in attributes if getattr(node.value, "id", "") != "spec"}
        assert not used & removed, path


def test_everything_our_code_asks_of_tensorrt_is_in_the_stand_in(standin):
    for path in USERS:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "trt"
            ):
                assert hasattr(standin, node.attr), f"{path}: trt.{node.attr}"

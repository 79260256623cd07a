"""The runtime adapters."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext101_triton.export import speed
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.cores import MOST_THREADS, usable_cores
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import bfloat16, int8, openvino_package
from seresnext101_triton.server.runtimes.base import flag, integer, thread_count
from seresnext101_triton.server.runtimes.openvino import OpenVino, _properties
from seresnext101_triton.server.runtimes.torchscript import TENSORS_ENTRY
from tests.conftest import onnx_convolution

pytestmark = pytest.mark.numeric

ARTIFACTS = {"torchscript": "model.pt", "onnxruntime": "model.onnx", "openvino": "model.xml"}


@pytest.fixture(params=ARTIFACTS)
def runtime_and_artifact(request, exported):
    filename = ARTIFACTS[request.param]
    return request.param, next(
        outcome.folder / filename
        for outcome in exported
        if outcome.artifact.name == filename and outcome.model.startswith("tiny")
    )


def load(runtime_and_artifact: tuple[str, Path]) -> runtimes.Runtime:
    return runtimes.load(*runtime_and_artifact, parameters={})


def test_the_artifact_tells_its_tensors(runtime_and_artifact):
    model = load(runtime_and_artifact)
    assert (model.input.name, model.input.dims) == ("INPUT__0", (3, 64, 64))
    assert (model.output.name, model.output.dims) == ("OUTPUT__0", (1000,))


@pytest.mark.parametrize(
    ("parameters", "properties"),
    [
        ({"PERFORMANCE_HINT": "", "NUM_STREAMS": "", "INFERENCE_NUM_THREADS": ""}, {}),
        ({"PERFORMANCE_HINT": "Latency"}, {"PERFORMANCE_HINT": "LATENCY"}),
        ({"NUM_STREAMS": "auto"}, {"NUM_STREAMS": "AUTO"}),
        ({"NUM_STREAMS": "numa"}, {"NUM_STREAMS": "NUMA"}),
        ({"NUM_STREAMS": "3"}, {"NUM_STREAMS": "3"}),
        ({"NUM_STREAMS": "0", "INFERENCE_NUM_THREADS": "0"}, {}),
        ({"INFERENCE_NUM_THREADS": "2"}, {"INFERENCE_NUM_THREADS": 2}),
        ({"INFERENCE_NUM_THREADS": str(MOST_THREADS)}, {"INFERENCE_NUM_THREADS": MOST_THREADS}),
        ({"HINT_BF16": "Yes"}, {"INFERENCE_PRECISION_HINT": "bf16"}),
    ],
)
def test_what_openvino_is_told(parameters, properties):
    least = {
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    if not bfloat16.can_be_asked_for():
        properties.pop("INFERENCE_PRECISION_HINT", None)
    assert _properties(parameters) == least | properties


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HINT_BF16", "NO"), ("COMPILATION_NUM_THREADS", "1"), ("PERFORMANCE_HINT", "FAST")),
        *(("NUM_STREAMS", "-1"), ("NUM_STREAMS", "many"), ("INFERENCE_NUM_THREADS", "1.5")),
        *(("INFERENCE_NUM_THREADS", str(MOST_THREADS + 1)), ("NUM_STREAMS", "0" * 99)),
    ],
)
def test_what_openvino_is_not_told(name, value):
    with pytest.raises(ArtifactError, match=f"parameter {name} "):
        _properties({name: value})


def test_openvino_tells_in_which_type_each_layer_is_computed(repository):
    (artifact,) = repository.glob("tiny_openvino/*/model.xml")
    model = load(("openvino", artifact))
    assert isinstance(model, OpenVino)
    text = artifact.read_text()
    convolutions = model.kernels("Convolution")
    assert model.ran_in == "fp32" and not {"int8", "bf16"} & set(convolutions)
    assert sum(convolutions.values()) == text.count('Convolution"') > 9
    assert sum(model.kernels("FullyConnected").values()) == text.count('"MatMul"') == 1
    assert model.kernels("Unknown") == {}


def test_read_only_input_is_taken_as_triton_gives_it(runtime_and_artifact):
    model = load(runtime_and_artifact)
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    batch.flags.writeable = False
    answer = model.run(batch)
    assert (answer.shape, answer.dtype) == ((2, 1000), np.float32)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_a_damaged_artifact(runtime_and_artifact, tmp_path):
    name, artifact = runtime_and_artifact
    broken = tmp_path / artifact.name
    broken.write_bytes(artifact.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=f"{broken} cannot be loaded"):
        runtimes.load(name, broken, {})


def test_a_missing_artifact(runtime_and_artifact, tmp_path):
    with pytest.raises(ArtifactError, match="nowhere cannot be loaded"):
        runtimes.load(runtime_and_artifact[0], tmp_path / "nowhere", {})


@pytest.fixture
def convolution(tmp_path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_convolution((3, 4, 4)))
    return path


@pytest.fixture
def options(monkeypatch) -> list[onnxruntime.SessionOptions]:
    """What ONNX Runtime's sessions were given."""
    seen: list[onnxruntime.SessionOptions] = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **rest: seen.append(options) or session(path, options, **rest),
    )
    return seen


def test_onnx_runtime_honours_its_parameters(convolution, options):
    parameters = {"intra_op_thread_count": "3", "inter_op_thread_count": "2", "execution_mode": "1"}
    runtimes.load(
        "onnxruntime",
        convolution,
        parameters | {"enable_mem_arena": "off", "enable_mem_pattern": "0"},
    )
    (seen,) = options
    assert (seen.intra_op_num_threads, seen.inter_op_num_threads) == (3, 2)
    assert seen.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (seen.enable_cpu_mem_arena, seen.enable_mem_pattern) == (False, False)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"intra_op_thread_count": "0", "execution_mode": "0", "enable_mem_arena": "true"}],
)
def test_onnx_runtime_left_alone(convolution, options, parameters):
    runtimes.load("onnxruntime", convolution, parameters)
    (seen,) = options
    assert (seen.intra_op_num_threads, seen.inter_op_num_threads) == (usable_cores(), 0)
    assert seen.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert (seen.enable_cpu_mem_arena, seen.enable_mem_pattern) == (True, True)


@pytest.mark.parametrize("name", ["enable_mem_arena", "share_session_between_instances"])
def test_a_switch_of_onnx_runtimes_backend_that_cannot_be_read(convolution, name):
    with pytest.raises(ArtifactError, match=f"parameter {name} must be true or false, not 'no'"):
        runtimes.load("onnxruntime", convolution, {name: "no"})
    runtimes.load("onnxruntime", convolution, {name: "on"})


@pytest.mark.parametrize("mode", ["2", "-1", "true", ""])
def test_an_execution_mode_that_onnx_runtime_has_not(convolution, mode):
    with pytest.raises(ArtifactError, match="parameter execution_mode must be "):
        runtimes.load("onnxruntime", convolution, {"execution_mode": mode})


def changed(graph: Path, change) -> Path:
    model = onnx.load(graph)
    change(model.graph)
    onnx.save(model, graph)
    return graph


def half(graph: onnx.GraphProto) -> None:
    for tensor in (graph.input[0], graph.output[0]):
        tensor.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    weight = onnx.numpy_helper.to_array(graph.initializer[0]).astype(np.float16)
    graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))


def with_a_second_input(graph: onnx.GraphProto) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "found"), [(half, r"tensor\(float16\)"), (with_a_second_input, "INPUT__0 .*, size")]
)
def test_onnx_that_the_backend_cannot_feed_is_refused_at_load_and_not_at_the_first_request(
    convolution, change, found
):
    with pytest.raises(
        ArtifactError,
        match=f"must have one input, an FP32 or UINT8 tensor with a batch axis, and has .*{found}",
    ):
        runtimes.load("onnxruntime", changed(convolution, change), {})


def test_a_fixed_batch_axis_is_told(convolution):
    def fix(graph: onnx.GraphProto) -> None:
        for tensor in (graph.input[0], graph.output[0]):
            tensor.type.tensor_type.shape.dim[0].dim_value = 2

    assert runtimes.load("onnxruntime", convolution, {}).input.batch == -1
    model = runtimes.load("onnxruntime", changed(convolution, fix), {})
    assert (model.input.batch, model.input.dims, model.output.batch, model.output.dims) == (
        2,
        (3, 4, 4),
        2,
        (2, 2, 2),
    )


@pytest.mark.parametrize(
    "entry", ["", "{}", "[]", "not json", '{"INPUT__0": 3}', '{"INPUT__0": ["a"]}', "null"]
)
def test_torchscript_with_a_strange_entry_of_that_name_tells_no_dims(tmp_path, entry):
    module = torch.jit.trace(torch.nn.ReLU(), torch.zeros(1, 3))
    torch.jit.save(module, str(tmp_path / "model.pt"), _extra_files={TENSORS_ENTRY: entry})
    model = runtimes.load("torchscript", tmp_path / "model.pt", {})
    assert (model.input.dims, model.output.dims) == ((), ())


def test_torchscript_honours_thread_parameters(exported):
    before = torch.get_num_threads()
    try:
        artifact = next(
            outcome.folder / "model.pt"
            for outcome in exported
            if outcome.model == "tiny_torchscript"
        )
        runtimes.load("torchscript", artifact, {"INTRA_OP_THREAD_COUNT": "1"})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_cuda_without_cuda_is_an_error_that_names_the_package(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_convolution((3, 4, 4)))
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        runtimes.load("onnxruntime", path, {}, "cuda:0")
    else:
        with pytest.raises(ArtifactError, match="install onnxruntime-gpu"):
            runtimes.load("onnxruntime", path, {}, "cuda:0")


@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="its instructions are limited")
def test_bfloat16_can_be_asked_for_on_every_processor():
    """OpenVINO computes in FP32 where the processor has no units for it."""
    assert bfloat16.can_be_asked_for()


def test_a_package_for_another_device_is_refused_by_what_it_says_itself(tmp_path):
    """Its metadata is read before its machine code is loaded, which this file does not have."""
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("p/archive_format", "pt2")
        package.writestr(
            "p/data/aotinductor/model/x.wrapper_metadata.json", '{"AOTI_DEVICE_KEY": "cuda"}'
        )
    with pytest.raises(ArtifactError, match=r"model\.pt2 was compiled for cuda, and not for a CPU"):
        runtimes.load("pt2", path, {})
    with pytest.raises(
        ArtifactError, match=r"model\.pt2 is served on CPUs only, and not on cuda:0"
    ):
        runtimes.load("pt2", path, {}, "cuda:0")


def test_an_extension_of_openvino_that_is_missing_is_named():
    with pytest.raises(RuntimeError, match=r"/nowhere\.so"):
        openvino_package.core("/nowhere.so")


@pytest.mark.parametrize(
    ("text", "count"),
    [("4", 4), ("0", 0), ("-1", 0), (" 4 ", 4), ("+4", 4), (str(MOST_THREADS), MOST_THREADS)],
)
def test_thread_counts_are_read_as_the_backends_read_them(text, count):
    assert thread_count({"n": text}, "n") == count
    assert thread_count({}, "n") == 0
    assert thread_count({"other": "x"}, "n") == 0


@pytest.mark.parametrize(
    "text",
    ["", "two", "2.5", "1_000", "4 threads", "\u0664", "0x10", "99999999999999999999", "--1"],
)
def test_thread_counts_that_cannot_be_read(text):
    with pytest.raises(ArtifactError, match="parameter n must be a whole number, not "):
        thread_count({"n": text}, "n")


def test_more_threads_than_any_machine_has():
    with pytest.raises(ArtifactError, match="n must be at most 1024, not '1025'"):
        thread_count({"n": "1025"}, "n")


def test_whole_numbers_keep_their_sign():
    assert integer({"n": "-3"}, "n") == -3
    assert integer({}, "n", default=7) == 7


@pytest.mark.parametrize("default", [True, False])
def test_switches_are_read_as_the_backends_read_them(default):
    assert all(
        flag({"f": text}, "f", default) for text in ("true", "TRUE", "True", "on", "ON", "1")
    )
    assert not any(
        flag({"f": text}, "f", default) for text in ("false", "FALSE", "off", "Off", "0")
    )
    assert flag({}, "f", default) is default
    for text in ("", "yes", "maybe", "2", "true "):
        with pytest.raises(ArtifactError, match="f must be true or false, not "):
            flag({"f": text}, "f", default)


NAMES = {
    "onnxruntime": (
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
    ),
    "openvino": (
        "INFERENCE_NUM_THREADS",
        "NUM_STREAMS",
        "HINT_BF16",
        "PERFORMANCE_HINT",
        "COMPILATION_NUM_THREADS",
        "CPU_EXTENSION_PATH",
    ),
    "torchscript": (
        "INTRA_OP_THREAD_COUNT",
        "INTER_OP_THREAD_COUNT",
        "INFERENCE_MODE",
        "DISABLE_OPTIMIZED_EXECUTION",
        "ENABLE_NVFUSER",
    ),
}
VALUES = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    st.integers(-2, 3).map(str),
    st.sampled_from(
        [
            "true",
            "OFF",
            "YES",
            "NO",
            "yes",
            "auto",
            "NUMA",
            "latency",
            "THROUGHPUT",
            "",
            " 1",
            "1e3",
            "nan",
            "\0",
        ]
    ),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[str, Path]:
    """One convolution for every runtime."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "model.onnx").write_bytes(onnx_convolution((3, 4, 4)))
    torch.jit.save(
        torch.jit.trace(torch.nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 4, 4)), str(folder / "model.pt")
    )
    return {
        "onnxruntime": folder / "model.onnx",
        "openvino": folder / "model.onnx",
        "torchscript": folder / "model.pt",
    }


@pytest.mark.parametrize("runtime", NAMES)
def test_any_value_of_a_parameter_loads_or_is_an_error_of_ours(small, runtime):
    threads = torch.get_num_threads()

    @settings(max_examples=60)
    @given(st.dictionaries(st.sampled_from(NAMES[runtime]), VALUES, max_size=3))
    def check(parameters: dict[str, str]) -> None:
        try:
            model = runtimes.load(runtime, small[runtime], parameters)
        except ArtifactError as error:
            assert "\n" not in str(error)
        else:
            assert model.run(np.ones((2, 3, 4, 4), np.float32)).shape == (2, 2, 2, 2)

    try:
        check()
    finally:
        torch.set_num_threads(threads)


def test_integer_sums_are_exact_where_the_processor_has_instructions_for_them():
    """The kernel's list of instructions is the truth, unless oneDNN is told to do without some."""
    if "ONEDNN_MAX_CPU_ISA" not in os.environ:
        flags = set(Path("/proc/cpuinfo").read_text().split())
        assert int8.adds_exactly() == bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})


def test_integer_sums_saturate_on_any_processor_without_these_instructions():
    code = "from seresnext101_triton.server.runtimes import int8; print(int8.adds_exactly())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"


@pytest.mark.parametrize("parameters", [{}, {"HINT_BF16": "YES"}])
def test_openvino_pins_no_thread_to_a_core(repository, parameters):
    """Each instance is a process: pinned ones would share the first cores.

    In a process of its own, because a thread that ran a pinned model once is never free again.
    """
    (artifact,) = repository.glob("tiny_openvino/*/model.xml")
    code = f"""
import os, threading
import numpy as np
from pathlib import Path
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.runtimes import int8

int8.adds_exactly()
parameters = {{"INFERENCE_NUM_THREADS": "1"}} | {parameters}
model = runtimes.load("openvino", Path({str(artifact)!r}), parameters)
images, seen, done = np.zeros((16, 3, 64, 64), np.float32), set(), threading.Event()
free = os.sched_getaffinity(0)

def watch():
    while not done.is_set():
        seen.add(frozenset(os.sched_getaffinity(os.getpid())))

watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(20):
    model.run(images)
done.set()
watcher.join()
assert seen == {{frozenset(free)}}, seen
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lines_about_int8_name_the_cause():
    assert speed.int8_line({"ran_in": "int8"}) == speed.int8_line({}) == ""
    assert "has no VNNI" in speed.int8_line({"ran_in": "fp32"})

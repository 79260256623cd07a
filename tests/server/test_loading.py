"""A repository loads here exactly if it loads in NVIDIA's image.

What Triton's C++ backends refuse at load, the backends here refuse, and the reverse. The expected
results come from loading such configs into the C++ backends of releases 24.10 and mid-2026, or from
their sources: onnxruntime_backend and openvino_backend (CompareDimsSupported,
ParseParameterHelper), pytorch_backend (ValidateInputs, ParseParameters), backend (ParseBoolValue,
ParseIntValue).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc as triton

from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.runtimes.openvino_package import core, openvino
from tests.conftest import FREE_PORTS, onnx_convolution, write_model

INPUT = 'input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 4, 4] }'
OUTPUT = 'output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 2, 2] }'
BATCHED = f"max_batch_size: 4 {INPUT} {OUTPUT}"
WHOLE = BATCHED.replace("max_batch_size: 4", "").replace("dims: [", "dims: [-1, ")


@dataclass(frozen=True)
class Case:
    """One config.

    Attributes:
        config: All of it but the platform.
        refusal: A part of the message; empty where the C++ backend loads it.
        artifact: Which of the artifacts it serves.
    """

    config: str
    refusal: str = ""
    artifact: str = ""


def with_parameter(config: str, name: str, value: str) -> str:
    return f'{config} parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'


ONNX = {
    "published": Case(with_parameter(BATCHED, "intra_op_thread_count", "0")),
    "completed": Case("", artifact="onnx"),
    "completed_without_a_batch_axis": Case("", artifact="onnx_fixed"),
    "unknown_parameter": Case(with_parameter(BATCHED, "no_such_thing", "x")),
    "parallel": Case(with_parameter(BATCHED, "execution_mode", "1")),
    "arena_off": Case(with_parameter(BATCHED, "enable_mem_arena", "OFF")),
    "mode_true": Case(
        with_parameter(BATCHED, "execution_mode", "true"),
        "parameter execution_mode must be a whole number, not 'true'",
    ),
    "mode_2": Case(
        with_parameter(BATCHED, "execution_mode", "2"),
        "execution_mode must be 0 (sequential) or 1 (parallel), not '2'",
    ),
    "no_threads": Case(
        with_parameter(BATCHED, "intra_op_thread_count", ""),
        "intra_op_thread_count must be a whole number, not ''",
    ),
    "arena_maybe": Case(
        with_parameter(BATCHED, "enable_mem_arena", "maybe"),
        "enable_mem_arena must be true or false, not 'maybe'",
    ),
    "output_dims": Case(
        BATCHED.replace("[2, 2, 2]", "[2, 2, 3]"),
        "gives the output OUTPUT__0 the dims [2, 2, 3], and the artifact has [2, 2, 2]",
    ),
    "output_name": Case(
        BATCHED.replace("OUTPUT__0", "scores"),
        "names the output 'scores', and the artifact has 'OUTPUT__0'",
    ),
    "input_name": Case(
        BATCHED.replace("INPUT__0", "image"),
        "names the input 'image', and the artifact has 'INPUT__0'",
    ),
    "input_dims": Case(
        BATCHED.replace("[3, 4, 4]", "[3, 4, -1]"),
        "gives the input INPUT__0 the dims [3, 4, -1], and the artifact has [3, 4, 4]",
    ),
    "input_type": Case(
        BATCHED.replace("FP32", "FP16", 1),
        "gives the input INPUT__0 TYPE_FP16: it must be TYPE_FP32",
    ),
    "batch_axis": Case(BATCHED, "fixed to a batch of 1", artifact="onnx_fixed"),
}
OPENVINO = {
    "published": Case(with_parameter(WHOLE, "INFERENCE_NUM_THREADS", "0")),
    "made_before": Case(WHOLE, artifact="openvino_any"),
    "lower_case": Case(with_parameter(WHOLE, "PERFORMANCE_HINT", "latency")),
    "bf16": Case(with_parameter(WHOLE, "HINT_BF16", "yes")),
    "nothing_said": Case(with_parameter(WHOLE, "INFERENCE_NUM_THREADS", "")),
    "one_batch": Case(WHOLE.replace("-1", "4")),
    "fast": Case(
        with_parameter(WHOLE, "PERFORMANCE_HINT", "fast"),
        "PERFORMANCE_HINT must be one of LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT",
    ),
    "not_bf16": Case(
        with_parameter(WHOLE, "HINT_BF16", "NO"), "parameter HINT_BF16 must be YES, not 'NO'"
    ),
    "compilation": Case(
        with_parameter(WHOLE, "COMPILATION_NUM_THREADS", "4"),
        "COMPILATION_NUM_THREADS is not one of OpenVINO's CPU plugin",
    ),
    "below_zero": Case(
        with_parameter(WHOLE, "INFERENCE_NUM_THREADS", "-1"),
        "INFERENCE_NUM_THREADS must be a whole number of 0 to",
    ),
    "no_tensors": Case(
        "", "names no input and no output, and Triton's backend for model.xml does not complete it"
    ),
    "output_dims": Case(
        WHOLE.replace("2, 2, 2", "2, 2, 3"),
        "the output OUTPUT__0 the dims [-1, 2, 2, 3], and the artifact has [-1, 2, 2, 2]",
    ),
    "output_name": Case(
        WHOLE.replace("OUTPUT__0", "scores"),
        "names the output 'scores', and the artifact has 'OUTPUT__0'",
    ),
    "bounded": Case(
        WHOLE,
        "the axis 1..8 must have one length, or any length from 1 on",
        artifact="openvino_bounded",
    ),
}
PYTORCH = {
    "published": Case(with_parameter(BATCHED, "INTRA_OP_THREAD_COUNT", "0")),
    "names_by_place": Case(BATCHED.replace("INPUT__0", "image").replace("OUTPUT__0", "scores")),
    "no_threads": Case(
        with_parameter(BATCHED, "INTRA_OP_THREAD_COUNT", ""),
        "INTRA_OP_THREAD_COUNT must be a whole number, not ''",
    ),
    "fuser": Case(
        with_parameter(BATCHED, "ENABLE_NVFUSER", "maybe"),
        "ENABLE_NVFUSER must be true or false, not 'maybe'",
    ),
    "no_tensors": Case(
        "", "names no input and no output, and Triton's backend for model.pt does not complete it"
    ),
    "no_output": Case(BATCHED.replace(OUTPUT, ""), "names no output, and"),
}
PLATFORMS = {
    "onnx": ('platform: "onnxruntime_onnx"', ONNX),
    "openvino": ('backend: "openvino"', OPENVINO),
    "pytorch": ('platform: "pytorch_libtorch"', PYTORCH),
}


def artifacts(folder: Path) -> dict[str, dict[str, bytes]]:
    """One convolution in every format, and its variants."""
    graph = onnx_convolution((3, 4, 4))
    found = {"onnx": {"model.onnx": graph}, "onnx_fixed": {"model.onnx": fixed_to_one(graph)}}
    for name, axis in {
        "openvino": (1, -1),
        "openvino_any": (-1,),
        "openvino_bounded": (1, 8),
    }.items():
        model = core().read_model(graph)
        model.reshape({"INPUT__0": openvino.PartialShape([openvino.Dimension(*axis), 3, 4, 4])})
        openvino.save_model(model, str(folder / f"{name}.xml"), compress_to_fp16=False)
        found[name] = {
            f"model.{kind}": (folder / f"{name}.{kind}").read_bytes() for kind in ("xml", "bin")
        }
    convolution = torch.nn.Conv2d(3, 2, 3, bias=False)
    torch.nn.init.ones_(convolution.weight)
    torch.jit.save(
        torch.jit.trace(convolution.eval(), torch.zeros(2, 3, 4, 4)), str(folder / "model.pt")
    )
    return found | {"pytorch": {"model.pt": (folder / "model.pt").read_bytes()}}


def fixed_to_one(graph: bytes) -> bytes:
    """The same, with a batch axis of 1."""
    model = onnx.load_from_string(graph)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    return model.SerializeToString()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """All of them in one server, which says of each model what became of it."""
    repository = tmp_path_factory.mktemp("loading")
    made = artifacts(tmp_path_factory.mktemp("artifacts"))
    for kind, (platform, cases) in PLATFORMS.items():
        for name, case in cases.items():
            config = f"{platform} instance_group {{ kind: KIND_CPU count: 1 }} {case.config}"
            write_model(repository, f"{kind}_{name}", config, made[case.artifact or kind])
    server = Server(repository, ports=FREE_PORTS)
    try:
        server.start()
        with pytest.raises(LoadError) as refusals:
            server.wait_until_ready()
        yield server, str(refusals.value).splitlines()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("kind", "name", "case"),
    [(kind, *item) for kind, (_, cases) in PLATFORMS.items() for item in cases.items()],
)
def test_a_config_loads_here_exactly_where_it_loads_there(loaded, kind, name, case):
    server, refusals = loaded
    model = f"{kind}_{name}"
    said = [line for line in refusals if f"model {model!r} cannot be loaded" in line]
    if not case.refusal:
        assert said == []
        batch = np.ones((4 if name == "one_batch" else 1, 3, 4, 4), np.float32)
        with triton.InferenceServerClient(server.url) as client:
            config = client.get_model_config(model).config
            tensor = triton.InferInput(config.input[0].name, list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch)
            answer = client.infer(model, [tensor]).as_numpy(config.output[0].name)
        np.testing.assert_array_equal(answer, np.full((len(batch), 2, 2, 2), 27))
    else:
        (line,) = said
        assert case.refusal in line
        assert "ArtifactError" in line and repr(model) in line.partition("ArtifactError")[2]
        assert " At: " not in line


def test_a_config_is_completed_as_the_onnx_runtime_backend_completes_it(loaded):
    """With a variable batch axis, the config gets a maximum batch of 4 and a batcher.

    With a fixed one it gets neither, and the dims include the batch axis.
    """
    with triton.InferenceServerClient(loaded[0].url) as client:
        free, fixed = (
            client.get_model_config(f"onnx_{name}").config
            for name in ("completed", "completed_without_a_batch_axis")
        )
    assert (free.max_batch_size, list(free.input[0].dims), free.HasField("dynamic_batching")) == (
        4,
        [3, 4, 4],
        True,
    )
    assert (fixed.max_batch_size, list(fixed.input[0].dims), list(fixed.output[0].dims)) == (
        0,
        [1, 3, 4, 4],
        [1, 2, 2, 2],
    )
    assert not fixed.HasField("dynamic_batching")


def test_openvino_reports_nothing_to_its_makers(tmp_path):
    """Its telemetry package would fork the process and write an identifier on import."""
    code = (
        "import sys, seresnext101_triton.server.runtimes.openvino; "
        "print([name for name in sys.modules if name.partition('.')[0] == 'openvino_telemetry'])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_openvino_has_run_is_handled(repository):
    """A `Core` that is destroyed would leave Python's signal handlers without a stack."""
    code = (
        "import os, signal, sys; from seresnext101_triton.server import runtimes; "
        "from seresnext101_triton.server.runtimes import int8; from pathlib import Path\n"
        "first, path = int8.adds_exactly(), Path(sys.argv[1])\n"
        "loaded = [runtimes.load('openvino', path, {}) for _ in range(3)]\n"
        "while loaded: del loaded[0]\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: print('handled')"
    )
    command = [sys.executable, "-c", code, repository / "tiny_openvino" / "1" / "model.xml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr

"""What the tests share: a small network of the same family, exported for real and served by the real tritonserver."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.decoding import OutputKind
from client.preprocessing import Preprocessing
from export.config import Serving
from export.network import ARCHITECTURES
from export.pipeline import Outcome, export
from export.reporting import Reporter
from export.request import Request
from server.launcher import Ports, Server
from tests.trained import Trained, train

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that; the tests of Ctrl-C want it heeded.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ARCHITECTURES["se-resnext-tiny"]
PREPROCESSING = Preprocessing(resize=72, crop=64)
FREE_PORTS = Ports(grpc=0, http=0, metrics=0)
QUIET = Reporter(quiet=True)


def tiny_request(repository: Path, **changes: object) -> Request:
    """An export of the small network with one format that takes half a second, unless told otherwise."""
    options: dict[str, object] = {
        "weights": "seeded",
        "repository": repository,
        "formats": ("torchscript",),
        "name": "tiny",
        "architecture": TINY,
        "preprocessing": PREPROCESSING,
        "serving": Serving(max_batch=4),
    }
    return Request(**options | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """The small network in every format, and one that serves logits of ten classes, in one repository."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    outcomes = export(tiny_request(repository, formats=("torchscript", "onnx", "openvino")), QUIET)
    ten = tmp_path_factory.mktemp("labels") / "ten.txt"
    ten.write_text("".join(f"number {n}\n" for n in range(10)))
    from dataclasses import replace

    logits = tiny_request(repository, name="logits", output=OutputKind.LOGITS, architecture=replace(TINY, classes=10), labels=str(ten))
    return outcomes + export(logits, QUIET)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The small network trained to read digits: half a minute."""
    return train(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def repository(exported: list[Outcome]) -> Path:
    return exported[0].folder.parent.parent


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """One tritonserver for all tests that only ask it something."""
    with Server(repository, ports=FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="session")
def foreign_server(exported: list[Outcome], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tritonserver with models that this toolkit did not publish: minimal configs, and one that fails for small images."""
    repository = tmp_path_factory.mktemp("foreign")
    write_model(repository, "foreign", 'platform: "onnxruntime_onnx"', {"model.onnx": onnx_convolution((3, 4, 4))})
    torchscript = next(outcome for outcome in exported if outcome.model == "tiny_torchscript")
    artifact = (torchscript.folder / "model.pt").read_bytes()
    write_model(repository, "minimal", 'platform: "pytorch_libtorch"', {"model.pt": artifact})
    picky = """
        platform: "onnxruntime_onnx"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, -1, -1] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, -1, -1] }
        instance_group { kind: KIND_CPU count: 1 }
        dynamic_batching { max_queue_delay_microseconds: 300000 }
    """
    write_model(repository, "picky", picky, {"model.onnx": onnx_convolution((3, None, None))})
    for name, policy in {"full": "max_queue_size: 1", "slow": "timeout_action: REJECT default_timeout_microseconds: 1000"}.items():
        config = picky.replace("300000 }", f"1000000 default_queue_policy {{ {policy} }} }}")
        write_model(repository, name, config, {"model.onnx": onnx_convolution((3, None, None))})
    with Server(repository, ports=FREE_PORTS) as running:
        yield running


def write_model(repository: Path, name: str, config: str, files: dict[str, bytes]) -> None:
    """A model folder with one version."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config)
    for filename, content in files.items():
        (version / filename).write_bytes(content)


def onnx_convolution(dims: tuple[int | None, ...]) -> bytes:
    """An ONNX model: one 3x3 convolution with all weights 1, three channels to two, unpadded, so that 2x2 is too small."""
    from onnx import TensorProto, helper, numpy_helper

    size = [side and side - 2 for side in dims[1:]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["INPUT__0", "weight"], ["OUTPUT__0"])],
        "convolution",
        [helper.make_tensor_value_info("INPUT__0", TensorProto.FLOAT, ["batch", *dims])],
        [helper.make_tensor_value_info("OUTPUT__0", TensorProto.FLOAT, ["batch", 2, *size])],
        [numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


@pytest.fixture
def tree():
    """A function that takes down everything in a folder: names, contents and modes."""

    def look(folder: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where downloads and calibrations are kept: not in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process, no shared memory and no workspace of a server outlives the tests."""
    yield
    mine = f"triton-{os.getpid()}-"
    assert not [region for region in os.listdir("/dev/shm") if region.startswith(mine)]
    assert children() == []


def children(pid: int | None = None) -> list[str]:
    """Command lines of the tritonservers and stubs whose ancestor is a process, ours by default."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def descends(process: int) -> bool:
        while process in parents:
            if process == (pid or os.getpid()):
                return True
            process = parents[process]
        return False

    return [command for process, command in commands.items() if "triton" in command.partition(" ")[0] and descends(process)]

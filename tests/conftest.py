"""Fixtures of all tests: a small network of the family, exported and served by tritonserver."""

from __future__ import annotations

import os

# A second thread does not speed up the small network. On a loaded machine two threads wait for each
# other at every layer, and tests take fifty times as long. Where a runtime still starts two, a
# passive wait lets them sleep. Both variables must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings

from seresnext101_triton.client.contract import PIXELS, OutputKind, Preprocessing
from seresnext101_triton.export.network import ARCHITECTURES
from seresnext101_triton.export.pipeline import Outcome, export
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.request import Request
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import Ports
from tests.trained import Trained, digits_in

# The default profile runs the same examples every time, so that a failure is due to the change that
# is tested; `make fuzz` searches for new ones, and `make mutants` asks only whether one fails. No
# example has a time limit.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.register_profile(
    "mutants", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell starts background processes with SIGINT ignored, and child processes inherit this. The
# tests of Ctrl-C need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# So it is with SIGQUIT, and with SIGHUP under `nohup`. A handler is not inherited: programs that
# tests start have the default, and the tests themselves go on.
for _number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# Files of tests that take a minute or two. They begin first, so that at the end no process of
# `make test` works alone.
LONG = (
    "tests/test_docs.py",
    "tests/test_demo.py",
    "tests/export/test_faults.py",
    "tests/export/test_quantization.py",
    "tests/server/test_supervision.py",
    "tests/export/test_gate_mutants.py",
    "tests/server/test_launcher.py",
    "tests/server/test_following.py",
    "tests/perf/test_tune.py",
    "tests/perf/test_cpu.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.location[0], len(LONG)))


TINY = ARCHITECTURES["se-resnext-tiny"]
PREPROCESSING = Preprocessing(resize=72, crop=64)
FREE_PORTS = Ports(grpc=0, http=0, metrics=0)
QUIET = Reporter(quiet=True)


def tiny_request(repository: Path, **changes: object) -> Request:
    """A request to export the small network as TorchScript, which takes half a second.

    Args:
        repository: Where the export is published.
        changes: Options of the request that replace the defaults.
    """
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
    """One repository: the small network in every format, and a model with ten-class logits."""
    repository = tmp_path_factory.mktemp("exported") / "models"
    outcomes = export(tiny_request(repository, formats=("torchscript", "onnx", "openvino")), QUIET)
    ten = tmp_path_factory.mktemp("labels") / "ten.txt"
    ten.write_text("".join(f"number {n}\n" for n in range(10)))
    logits = tiny_request(
        repository,
        name="logits",
        output=OutputKind.LOGITS,
        architecture=replace(TINY, classes=10),
        labels=str(ten),
    )
    return outcomes + export(logits, QUIET)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the small network as AOTInductor package: half a minute, once in a run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    repository = shared / "compiled" / "models"
    repository.parent.mkdir(exist_ok=True)
    with open(repository.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        export(tiny_request(repository, formats=("pt2",), serving=Serving(max_batch=8)), QUIET)
    return repository


@pytest.fixture(scope="session")
def pixel_models(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """The small network in every format, with pixels for its input, in a repository of its own."""
    repository = tmp_path_factory.mktemp("pixels") / "models"
    pixels = replace(PREPROCESSING, layout=PIXELS)
    formats = "torchscript", "onnx", "openvino"
    return export(tiny_request(repository, formats=formats, preprocessing=pixels), QUIET)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The small network that has learnt to read digits, and those digits."""
    return digits_in(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def repository(exported: list[Outcome]) -> Path:
    return exported[0].folder.parent.parent


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """One tritonserver for all tests that only ask it something.

    Shared memory is open to all, for perf_analyzer, which has no key.
    """
    with Server(repository, ports=FREE_PORTS, allow=["shared-memory"]) as running:
        yield running


@pytest.fixture(scope="session")
def foreign_server(
    exported: list[Outcome], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A tritonserver with models that this toolkit did not publish.

    Their configs are minimal, and one model fails for images that are too small.
    """
    repository = tmp_path_factory.mktemp("foreign")
    write_model(
        repository,
        "foreign",
        'platform: "onnxruntime_onnx"',
        {"model.onnx": onnx_convolution((3, 4, 4))},
    )
    torchscript = next(outcome for outcome in exported if outcome.model == "tiny_torchscript")
    artifact = (torchscript.folder / "model.pt").read_bytes()
    minimal = """
        platform: "pytorch_libtorch"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 64, 64] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [1000] }
    """
    write_model(repository, "minimal", minimal, {"model.pt": artifact})
    picky = """
        platform: "onnxruntime_onnx"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, -1, -1] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, -1, -1] }
        instance_group { kind: KIND_CPU count: 1 }
        dynamic_batching { max_queue_delay_microseconds: 300000 }
    """
    write_model(repository, "picky", picky, {"model.onnx": onnx_convolution((3, None, None))})
    write_model(
        repository,
        "together",
        picky.replace("300000", "2000000"),
        {"model.onnx": onnx_convolution((3, None, None))},
    )
    for name, policy in {
        "full": "max_queue_size: 1",
        "slow": "timeout_action: REJECT default_timeout_microseconds: 1000",
    }.items():
        config = picky.replace("300000 }", f"1000000 default_queue_policy {{ {policy} }} }}")
        write_model(repository, name, config, {"model.onnx": onnx_convolution((3, None, None))})
    with Server(repository, ports=FREE_PORTS) as running:
        yield running


def checkout_copy(folder: Path) -> Path:
    """Copy the project into a folder as git would give it, with this environment linked into it."""
    project = Path(__file__).parents[1]
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (project / name).is_symlink() or (project / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, folder / name, follow_symlinks=False)
    (folder / ".venv").symlink_to(os.path.relpath(sys.prefix, folder))
    return folder


def write_model(repository: Path, name: str, config: str, files: dict[str, bytes]) -> None:
    """A model folder with one version."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config)
    for filename, content in files.items():
        (version / filename).write_bytes(content)


def onnx_convolution(dims: tuple[int | None, ...]) -> bytes:
    """An ONNX model with one unpadded 3x3 convolution from three channels to two, all weights 1.

    It fails for a 2x2 image, which is smaller than the kernel.
    """
    from onnx import TensorProto, helper, numpy_helper

    size = [side and side - 2 for side in dims[1:]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["INPUT__0", "weight"], ["OUTPUT__0"])],
        "convolution",
        [helper.make_tensor_value_info("INPUT__0", TensorProto.FLOAT, ["batch", *dims])],
        [helper.make_tensor_value_info("OUTPUT__0", TensorProto.FLOAT, ["batch", 2, *size])],
        [numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "weight")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


@pytest.fixture
def tree():
    """A function that takes down everything in a folder: names, contents and modes."""

    def look(folder: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(folder)): (
                path.stat().st_mode,
                path.read_bytes() if path.is_file() else b"",
            )
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
            commands[int(folder.name)] = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            )
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def descends(process: int) -> bool:
        while process in parents:
            if process == (pid or os.getpid()):
                return True
            process = parents[process]
        return False

    return [
        command
        for process, command in commands.items()
        if "triton" in command.partition(" ")[0] and descends(process)
    ]

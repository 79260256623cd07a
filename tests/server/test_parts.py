"""The parts of a launch, without a server: its folder, its arguments, its signals."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import trustme
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.transport import Tls
from seresnext101_triton.server import installation
from seresnext101_triton.server.access import key_arguments, tls_arguments
from seresnext101_triton.server.arguments import cache_arguments, endpoint_arguments
from seresnext101_triton.server.backends.validation import Rules
from seresnext101_triton.server.embedded import EMBEDDED_CONFIG_FILENAME, embedded_text
from seresnext101_triton.server.errors import InstallationError, ServerError, WorkspaceError
from seresnext101_triton.server.models import ServedFolder
from seresnext101_triton.server.notify import Notifier
from seresnext101_triton.server.runtimes import RUNTIMES
from seresnext101_triton.server.signals import end_signals
from seresnext101_triton.server.tracing import Tracing
from seresnext101_triton.server.versions import read_config, selected
from seresnext101_triton.server.view import View
from seresnext101_triton.server.workspace import Workspace, unusable

CONFIG = 'name: "a" input { name: "x" } output { name: "y" }'


@pytest.fixture
def model(tmp_path) -> Path:
    """A model with versions 1, 2 and 3, of which 2 has a config and labels of its own."""
    folder = tmp_path / "models" / "a"
    for version in "123":
        (folder / version).mkdir(parents=True)
        (folder / version / "model.onnx").write_text(version)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "labels.txt").write_text("newest")
    (folder / "2" / "config.pbtxt").write_text(CONFIG.replace('"x"', '"kept"'))
    (folder / "2" / "labels.txt").write_text("kept")
    (folder / "configs").mkdir()
    return folder


@pytest.fixture
def view(tmp_path) -> View:
    (tmp_path / "seen").mkdir()
    return View(tmp_path / "seen", tmp_path / "pinned")


def seen(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_is_shown_as_its_folder_is(tmp_path, model, view):
    view.show(model)
    assert (tmp_path / "seen" / "a").readlink() == model.resolve()
    assert view.is_complete() and seen(tmp_path) == {"models", "seen"}
    view.hide("a")
    view.hide("a")
    assert seen(tmp_path / "seen") == set() and seen(model) >= {"1", "2", "3"}


def test_particular_versions_are_shown_with_the_config_of_the_newest_of_them(tmp_path, model, view):
    view.pin(model, [1, 2])
    entry = tmp_path / "seen" / "a"
    assert seen(entry) == {"1", "2", "configs", "config.pbtxt", "labels.txt"}
    assert (entry / "1" / "model.onnx").read_text() == "1"
    config = read_config(entry)
    assert (config.name, config.input[0].name) == ("a", "kept")
    assert selected(config, [1, 2, 3]) == [1, 2]
    assert (entry / "labels.txt").read_text() == "kept"
    assert not (entry / "labels.txt").is_symlink()
    view.pin(model, [3], "other", {"canary": "3"})
    other = tmp_path / "seen" / "other"
    assert seen(other) == {"3", "configs", "config.pbtxt", "labels.txt"}
    config = read_config(other)
    assert (config.name, config.input[0].name) == ("other", "x")
    assert config.parameters["canary"].string_value == "3"
    assert selected(config, [1, 2, 3]) == [3]
    assert (other / "labels.txt").read_text() == "newest"
    (model / "labels.txt").unlink()
    view.pin(model, [3], "other")
    assert seen(other) == {"3", "configs", "config.pbtxt"}


def test_what_is_no_longer_shown_leaves_nothing_behind(tmp_path, model, view):
    for version in (1, 2, 3):
        view.pin(model, [version])
        assert len(seen(tmp_path / "pinned")) == 1
    view.show(model)
    assert seen(tmp_path / "pinned") == set()
    view.pin(model, [1])
    view.hide("a")
    assert seen(tmp_path / "pinned") == set() == seen(tmp_path / "seen")
    assert (model / "1" / "model.onnx").read_text() == "1"


@pytest.mark.parametrize(
    ("config", "complete"),
    [
        (CONFIG, True),
        ('input { name: "x" }', False),
        ('output { name: "y" }', False),
        ("", False),
        ("{", False),
        (None, False),
    ],
)
def test_whether_every_config_names_its_tensors(model, view, config, complete):
    view.show(model)
    (model / "config.pbtxt").unlink()
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    assert view.is_complete() is complete


def test_the_folder_of_a_launch(tmp_path, model, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    name = f"test-{os.getpid()}"
    workspace = Workspace(name)
    regions = [Path("/dev/shm") / f"{workspace.shared_memory}{end}" for end in ("a", "b")]
    try:
        assert stat.S_IMODE(workspace.folder.stat().st_mode) == 0o700
        assert workspace.folder.parent == temporary and name in workspace.folder.name
        workspace.show([ServedFolder(model), ServedFolder(model, 2, renamed=True)])
        assert (workspace.models / "a").readlink() == model
        assert read_config(workspace.models / "a@2").name == "a@2"
        assert seen(workspace.models) == {"a", "a@2"}
        for region in regions:
            region.touch()
        workspace.clear_shared_memory()
        assert not any(region.exists() for region in regions)
        with pytest.raises(WorkspaceError, match=f"{temporary} cannot be written .File exists"):
            Workspace(name)
        shutil.rmtree(workspace.models)
        with pytest.raises(WorkspaceError, match=r"cannot be written .No such file .*\$TMPDIR"):
            workspace.show([ServedFolder(model)])
        regions[0].touch()
        workspace.remove()
        assert not regions[0].exists() and seen(temporary) == set()
    finally:
        for region in regions:
            region.unlink(missing_ok=True)


def test_a_folder_with_a_blank_in_its_path_holds_no_backend(tmp_path, monkeypatch):
    blank = tmp_path / "my files"
    blank.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(blank))
    with pytest.raises(WorkspaceError, match=r"my files' has a blank in its path.*in \$TMPDIR"):
        Workspace("name")
    assert seen(blank) == set()


def test_why_a_folder_cannot_be_written(tmp_path):
    assert "/t cannot be written (No space left" in str(
        unusable(Path("/t"), OSError(28, os.strerror(28)))
    )
    assert "/t cannot be written (odd)" in str(unusable(Path("/t"), OSError("odd")))
    several = shutil.Error([("a", "b", "[Errno 28] first"), ("c", "d", "No space left: 'd'")])
    assert "/t cannot be written (No space left)" in str(unusable(Path("/t"), several))


# The tritonserver


def test_the_servers_folder_of_backends(tmp_path):
    found = installation.find(tmp_path)
    backends = tmp_path / "backends"
    assert seen(backends) == {
        *("python", "onnxruntime", "openvino", "pytorch", "tensorrt", "tensorrt_rtx"),
    }
    assert all(
        seen(folder) == {"model.py"} for folder in backends.iterdir() if folder.name != "python"
    )
    stub = backends / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK) and os.access(found.executable, os.X_OK)
    assert found.embedded and found.executable.name == "tritonserver"
    assert f"--backend-directory={backends}" in found.arguments
    assert found.environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert found.environment["PATH"].endswith(os.environ["PATH"])
    libraries = found.environment["LD_LIBRARY_PATH"].split(":")
    assert any(
        Path(folder, f"libpython3.{sys.version_info.minor}.so.1.0").exists() for folder in libraries
    )
    assert found.passes_bytes == importlib.metadata.version("numpy").startswith("1.")


def test_what_the_embedded_server_needs(tmp_path, monkeypatch):
    """The variables are those of mallopt(3): a tensor of a request is smaller than each."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    found = installation.find(tmp_path)
    triton = found.executable.parents[1]
    assert found.arguments == (
        f"--backend-directory={tmp_path}/backends",
        f"--cache-directory={triton}/caches",
        "--model-config-name=embedded",
    )
    assert EMBEDDED_CONFIG_FILENAME == "configs/embedded.pbtxt"
    libraries = [triton.parents[1] / "nvidia_pytriton.libs", installation.libpython_folder()]
    assert {**found.environment, "PATH": ""} == {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        "MALLOC_TOP_PAD_": "67108864",
        "PATH": "",
    }
    python = {path.name for path in (tmp_path / "backends" / "python").iterdir()}
    assert "libtriton_python.so" in python and "__pycache__" not in python


@pytest.mark.parametrize(
    ("version", "passes_bytes"), [("1.26.4", True), ("2.1.0", False), ("20.0", False)]
)
def test_which_numpy_the_embedded_server_takes(tmp_path, monkeypatch, version, passes_bytes):
    monkeypatch.setattr(installation, "_numpy_version", lambda: version)
    assert installation.find(tmp_path).passes_bytes == passes_bytes
    monkeypatch.setattr(installation, "_numpy_version", lambda: "2.0.1")
    with pytest.raises(
        InstallationError, match=r"not with numpy 2\.0\.1: pip install 'numpy!=2\.0"
    ):
        installation.find(tmp_path)


def test_the_exit_codes_of_errors():
    """Those of sysexits.h; docs/exit-codes.md says what each means."""
    assert {kind.__name__: kind.exit_code for kind in subclasses(ServerError)} == {
        "ArtifactError": 65,
        "IntegrityError": 65,
        "InstallationError": 69,
        "LoadError": 1,
        "NothingToServe": 1,
        "PortInUse": 1,
        "ReleaseError": 1,
        "StoreError": 73,
        "UnknownRelease": 2,
        "WorkspaceError": 73,
    }


def subclasses(kind: type[ServerError]) -> Iterator[type[ServerError]]:
    for each in kind.__subclasses__():
        if each.__module__ == kind.__module__:
            yield each
            yield from subclasses(each)


def test_an_incomplete_tritonserver_is_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(installation, "find_spec", lambda _: None)
        with pytest.raises(InstallationError, match="pip install .*nvidia-pytriton=="):
            installation.find(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(installation, "_PYTHON", "3.99")
        with pytest.raises(InstallationError, match=r"no stub for Python 3\.99: use Python 3\.10"):
            installation.find(tmp_path)


def test_earlier_library_folders_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/earlier")
    found = installation.find(tmp_path)
    assert found.environment["LD_LIBRARY_PATH"].split(":")[2:] == ["/earlier"]


def test_libpython_is_found_where_the_system_has_it(monkeypatch):
    monkeypatch.setattr(installation, "_PYTHON_LIBRARY", "here.so")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: {"MULTIARCH": "arch"}.get(name))
    for wanted in (f"{sys.base_prefix}/lib", "/usr/lib/arch", "/usr/lib64", "/usr/lib"):
        with monkeypatch.context() as patch:
            patch.setattr(
                Path, "exists", lambda path, wanted=wanted: path == Path(wanted, "here.so")
            )
            assert installation.libpython_folder() == Path(wanted)


# The backends


@pytest.mark.parametrize(
    ("backend", "runtime", "artifact", "rules"),
    [
        ("onnxruntime", "onnxruntime", "model.onnx", Rules(completes=True, exact_outputs=True)),
        ("openvino", "openvino", "model.xml", Rules(any_batch=True)),
        ("pytorch", "torchscript", "model.pt", Rules(names=False)),
        ("tensorrt", "tensorrt", "model.plan", Rules(exact_outputs=True)),
        ("tensorrt_rtx", "tensorrt_rtx", "model.engine", Rules(exact_outputs=True)),
    ],
)
def test_a_backends_runtime_its_rules_and_the_name_that_triton_gives_its_artifacts(
    backend, runtime, artifact, rules, monkeypatch
):
    """The names are those of docs/user_guide/model_repository.md of Triton."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("utils"))
    module = importlib.import_module(f"seresnext101_triton.server.backends.{backend}.model")
    model = module.TritonPythonModel
    assert (model.runtime, model.default_filename) == (runtime, artifact)
    assert model.rules == rules
    assert runtime in RUNTIMES


def test_what_the_embedded_server_is_told_otherwise():
    assert embedded_text('platform: "onnxruntime_onnx"') is None
    assert embedded_text("{") is None
    for named, artifact in (("", "model.pt2"), ('default_model_filename: "x.pt2"', "x.pt2")):
        text = embedded_text(f'name: "a" platform: "torch_aoti" max_batch_size: 4 {named}')
        assert text is not None
        config = text_format.Parse(text, pb.ModelConfig())
        assert config == pb.ModelConfig(
            name="a", backend="pytorch", max_batch_size=4, default_model_filename=artifact
        )


# What tritonserver is told


def test_protocols_are_restricted_for_grpc_and_http():
    assert list(key_arguments((), "k")) == []
    assert list(key_arguments(("trace", "logging"), "k")) == [
        "--grpc-restricted-protocol=trace,logging:launch-key=k",
        "--http-restricted-api=trace,logging:launch-key=k",
    ]


def test_tls_is_told_with_and_without_authorities(tmp_path):
    own = trustme.CA().issue_cert("localhost")
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "a.pem", "a.key"))
    trustme.CA().cert_pem.write_to_path(str(ca))
    own.cert_chain_pems[0].write_to_path(str(certificate))
    own.private_key_pem.write_to_path(str(key))
    plain = [
        *("--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}")
    ]
    assert list(tls_arguments(None)) == []
    assert list(tls_arguments(Tls(None, certificate, key))) == plain
    mutual = ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={ca}"]
    assert list(tls_arguments(Tls(ca, certificate, key))) == plain + mutual
    with pytest.raises(UsageError, match="needs its own certificate and key"):
        list(tls_arguments(Tls(ca)))


def test_spans_go_to_the_collector():
    assert Tracing("http://c:4318/v1/traces").rate == 1000
    assert Tracing("https://c/x", 0).arguments() == [
        "--trace-config=mode=opentelemetry",
        "--trace-config=opentelemetry,url=https://c/x",
        "--trace-config=opentelemetry,resource=service.name=seresnext101-triton",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=0",
        "--trace-config=count=-1",
    ]


def test_the_cache_fits_into_the_memory():
    assert cache_arguments(0) == []
    assert cache_arguments(3) == ["--cache-config=local,size=3145728"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert cache_arguments(memory - 1)
    for mib in (-1, memory):
        with pytest.raises(ServerError, match=f"0 to {memory - 1} MiB.*not {mib}"):
            cache_arguments(mib)


# Signals, and the service manager


def test_signals_are_noted_and_their_handlers_come_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ignored = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        with end_signals() as signals:
            assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN
            assert signals.wait(0.01) is None
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.raise_signal(number)
                assert signals.wait(10) is number
        assert {number: signal.getsignal(number) for number in before} == before
    finally:
        signal.signal(signal.SIGQUIT, ignored)


def test_a_sign_of_life_is_due_after_half_of_the_managers_period(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for process, watched in ((str(os.getpid()), True), (None, True), ("1", False)):
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")
        if process:
            monkeypatch.setenv("WATCHDOG_PID", process)
        notifier = Notifier()
        assert "WATCHDOG_USEC" not in os.environ and "WATCHDOG_PID" not in os.environ
        assert notifier.is_sign_of_life_due() == watched
        notifier.sign_of_life()
        now[0] += 1.49
        assert not notifier.is_sign_of_life_due()
        now[0] += 0.01
        assert notifier.is_sign_of_life_due() == watched
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert not Notifier().is_sign_of_life_due()


def test_a_manager_in_the_abstract_namespace(monkeypatch):
    name = f"seresnext101-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().send(READY=1, STATUS="up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def launch(**facts: object) -> Launch:
    given = {"pid": 9, "repository": "r", "grpc": 1, "http": 2, "metrics": 3, "key": "k"}
    own = {"restricted": (), "workspace": "w", "shared_memory": "s"}
    return Launch(**given | own | facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "tls", "grpc", "web"),
    [
        ("127.0.0.1", False, "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", False, "0.0.0.0", "0.0.0.0"),
        ("::1", False, "[::1]", "ipv6:::1"),
        ("0.0.0.0", True, "0.0.0.0", "127.0.0.1"),
        ("::", True, "[::]", "ipv6:::1"),
    ],
)
def test_where_a_server_listens(address, tls, grpc, web):
    assert list(endpoint_arguments(launch(address=address, tls=tls))) == [
        f"--grpc-address={grpc}",
        f"--http-address={web}",
        f"--metrics-address={web}",
        "--grpc-port=1",
        "--http-port=2",
        "--metrics-port=3",
    ]

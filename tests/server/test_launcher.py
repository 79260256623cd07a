"""Starting, failing and ending a real tritonserver."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.server import cli, installation
from seresnext101_triton.server.errors import (
    InstallationError,
    LoadError,
    NothingToServe,
    PortInUse,
    ServerError,
)
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import served_models
from seresnext101_triton.server.needs import without_gpu
from seresnext101_triton.server.ports import Ports
from tests.conftest import FREE_PORTS, children, onnx_convolution, write_model
from tests.waiting import until

FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
CONVOLUTION = 'platform: "onnxruntime_onnx"'
COMPLETE = f"""{CONVOLUTION}  max_batch_size: 4
input {{ name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 4, 4] }}
output {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 2, 2] }}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one small model, quick to load."""
    repository = tmp_path / "models"
    write_model(repository, "convolution", CONVOLUTION, {"model.onnx": onnx_convolution((3, 4, 4))})
    return repository


def start(repository: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m server` in a process of its own, returned when it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "--repository", str(repository), *FREE, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert any(line.startswith("gRPC ") for line in process.stdout), "it never became ready"
    return process


def test_it_says_where_it_listens_and_what_it_serves(small, capfd):
    code = cli.main(
        [
            "--repository",
            str(small),
            *FREE,
            "--timings",
            "--",
            sys.executable,
            "-c",
            "import os; print('url', os.environ['TRITON_URL'])",
        ]
    )
    out, err = capfd.readouterr()
    assert code == 0
    for part in ("checking the artifacts", "waiting for the models", "loading convolution"):
        assert f"  {part}\n" in err
    assert "convolution version 1: ready" in out
    grpc = re.search(
        r"gRPC (127\.0\.0\.1:\d+) · HTTP 127\.0\.0\.1:\d+ · metrics http://127\.0\.0\.1:\d+/metrics",
        out,
    )
    assert grpc and f"url {grpc[1]}" in out


def test_the_commands_exit_code_is_ours(small):
    assert (
        cli.main(
            ["--repository", str(small), *FREE, "--", sys.executable, "-c", "raise SystemExit(7)"]
        )
        == 7
    )


def test_a_command_that_does_not_exist(small, capsys):
    assert cli.main(["--repository", str(small), *FREE, "--", "no-such-command"]) == 1
    assert "cannot run no-such-command" in capsys.readouterr().err


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(small, signal_):
    process = start(small)
    pid = process.pid
    assert len(children(pid)) >= 2  # the server and a stub
    process.send_signal(signal_)
    assert process.wait(600) == 0
    assert children(pid) == []
    assert not list(Path("/dev/shm").glob(f"triton-{pid}-*"))


def test_killing_the_launcher_ends_the_server(small):
    process = start(small)
    server_pid = int(
        Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    )
    process.kill()
    process.wait()
    assert until(lambda: not Path(f"/proc/{server_pid}").exists())


def test_a_port_in_use(small, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert (
            cli.main(
                [
                    "--repository",
                    str(small),
                    "--grpc-port",
                    str(port),
                    "--http-port",
                    "0",
                    "--metrics-port",
                    "0",
                ]
            )
            == 1
        )
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "--grpc-port 0" in err
    assert err.count("\n") == 1


def test_free_ports_are_different_and_free():
    ports = FREE_PORTS.resolve("127.0.0.1")
    assert len(set(vars(ports).values())) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.http))
        with pytest.raises(PortInUse, match="`http_port`"):
            Ports(0, ports.http, 0).resolve("127.0.0.1")


def test_a_model_that_cannot_be_loaded_shows_the_servers_reason(small, capsys):
    write_model(small, "broken", CONVOLUTION, {"model.onnx": b"not a model"})
    assert cli.main(["--repository", str(small), *FREE]) == 1
    err = capsys.readouterr().err
    assert "model 'broken' cannot be loaded: " in err
    assert f"{small}/broken/1/model.onnx cannot be loaded by ONNX Runtime" in err
    assert err.splitlines()[-1] == "serve the others with --model NAME"
    assert children() == [] or "convolution" not in str(children())


def test_a_config_that_cannot_be_parsed_shows_the_servers_reason(small):
    write_model(small, "garbled", "platform: onnx {", {"model.onnx": onnx_convolution((3, 4, 4))})
    with (
        pytest.raises(
            LoadError, match="model 'garbled' cannot be loaded: .*Expected string, got: onnx"
        ),
        Server(small, ports=FREE_PORTS),
    ):
        pass


def test_a_gpu_model_without_a_gpu_is_left_out_unless_it_was_named(small, monkeypatch):
    monkeypatch.setattr("seresnext101_triton.server.gpu.find", lambda: None)
    config = CONVOLUTION + " instance_group { kind: KIND_GPU count: 1 }"
    write_model(small, "gpu", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    notes: list[str] = []
    with Server(small, ports=FREE_PORTS, note=notes.append) as server:
        assert [model.name for model in server.models] == ["convolution"]
        assert server.control.is_ready()
    assert notes[:1] == [
        "left out: gpu: the config asks for a GPU (KIND_GPU), and this machine has none that CUDA "
        "can use"
    ]
    with pytest.raises(NothingToServe, match="^gpu cannot be served: .* has none that CUDA can"):
        Server(small, only=["gpu"]).start()
    shutil.rmtree(small / "convolution")
    with pytest.raises(NothingToServe, match="^gpu cannot be served: "):
        Server(small).start()


def test_what_only_decodes_images_for_a_gpu_model_is_left_out_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("seresnext101_triton.server.gpu.find", lambda: None)
    steps = "".join(f'step {{ model_name: "{name}" }} ' for name in ("image_preprocess_x", "gpu"))
    configs = {
        "gpu": "instance_group { kind: KIND_GPU }",
        "gpu_image": f"ensemble_scheduling {{ {steps}}}",
        "image_preprocess_x": "",
    }
    for name, config in configs.items():
        write_model(tmp_path, name, config, {})
    notes: list[str] = []
    with pytest.raises(NothingToServe, match="^gpu, gpu_image cannot be served: "):
        without_gpu(served_models(tmp_path), [], notes.append)
    write_model(tmp_path, "convolution", CONVOLUTION, {})
    kept = without_gpu(served_models(tmp_path), [], notes.append)
    assert [folder.name for folder in kept] == ["convolution"]
    assert notes[0].startswith("left out: gpu, gpu_image: ")


def test_folders_without_a_version_are_left_out(small):
    (small / "not-exported").mkdir()
    (small / "not-exported" / "config.pbtxt").write_text(CONVOLUTION)
    (small / ".hidden" / "1").mkdir(parents=True)
    assert [folder.name for folder in served_models(small)] == ["convolution"]
    with Server(small, ports=FREE_PORTS) as server, Connection(server.url) as connection:
        assert connection.is_ready()
        assert connection.ready_models() == ["convolution"]


def test_an_empty_repository(tmp_path):
    with pytest.raises(
        NothingToServe, match=r"holds no exported model. Export one: python -m export"
    ):
        Server(tmp_path).start()


def test_a_missing_repository(tmp_path, capsys):
    assert cli.main(["--repository", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_it_listens_on_this_machine_only_and_takes_no_model_control(server):
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    assert server.url.startswith("127.0.0.1:")
    with (
        triton.InferenceServerClient(server.url) as client,
        pytest.raises(InferenceServerException, match="This protocol is restricted"),
    ):
        client.unload_model("tiny_onnx")
    listening = Path("/proc/net/tcp").read_text()
    ports = [f":{port:04X}" for port in vars(server.ports).values()]
    addresses = {
        line.split()[1].partition(":")[0]
        for line in listening.splitlines()[1:]
        if any(port in line.split()[1] for port in ports)
    }
    assert addresses == {"0100007F"}  # 127.0.0.1, little-endian


def test_a_missing_libpython_names_the_package(small, monkeypatch, capsys):
    monkeypatch.setattr(installation, "_PYTHON_LIBRARY", "libpython9.99.so.1.0")
    assert cli.main(["--repository", str(small), *FREE]) == 69
    err = capsys.readouterr().err
    assert "libpython9.99.so.1.0 is missing" in err
    assert "apt-get install libpython3.11" in err


def test_numpy_2_0_is_refused_before_it_fails_every_answer(small, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.0.2")
    with pytest.raises(InstallationError, match=r"pip install 'numpy!=2\.0\.\*'"):
        installation.find(small)


def test_a_tritonserver_on_path_is_preferred(tmp_path, monkeypatch):
    native = tmp_path / "tritonserver"
    native.write_text("#!/bin/sh\n")
    native.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = installation.find(tmp_path / "unused")
    assert (found.executable, found.embedded, found.arguments) == (native, False, ())


@pytest.mark.parametrize(
    ("end", "starts", "said"),
    [("exit 3", 1, "ended with code 3"), ("kill -9 $$", 3, "ended with signal SIGKILL")],
)
def test_a_server_that_is_killed_at_its_start_is_tried_again_and_one_that_ends_is_not(
    small, tmp_path, monkeypatch, end, starts, said
):
    native = tmp_path / "tritonserver"
    native.write_text(f"#!/bin/sh\necho start >> {tmp_path}/starts\n{end}\n")
    native.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told: list[str] = []
    with (
        pytest.raises(ServerError, match=f"tritonserver {said} before it was ready"),
        Server(small, ports=FREE_PORTS, note=told.append),
    ):
        pass
    assert (tmp_path / "starts").read_text().count("start") == starts
    assert sum(f"{said} at its start; it is tried again" in line for line in told) == starts - 1


def test_only_the_models_that_were_named_are_served(small, capfd):
    write_model(small, "broken", CONVOLUTION, {"model.onnx": b"nothing"})
    with Server(small, ports=FREE_PORTS, only=["convolution"]) as server:
        assert [model.name for model in server.models] == ["convolution"]
    with (
        pytest.raises(LoadError, match="serve the others with `only=NAME`"),
        Server(small, ports=FREE_PORTS),
    ):
        pass
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    assert (
        cli.main(["--repository", str(small), "--model", "convolution", *ports, "--", "true"]) == 0
    )
    assert "broken" not in capfd.readouterr().out
    assert cli.main(["--repository", str(small), "--model", "nothing"]) == 1
    assert (
        "holds no exported model nothing: choose from broken, convolution" in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("config", "options", "asks"),
    [
        (COMPLETE, {}, False),
        (CONVOLUTION, {}, True),
        (COMPLETE, {"follow": True}, True),  # a model that comes later may lack something
        (COMPLETE, {"allow": ["model-repository"]}, True),
    ],
)
def test_backends_are_asked_to_complete_configs_only_if_one_may_need_it(
    small, config, options, asks
):
    """To ask takes Triton a process for each model, and a second."""
    (small / "convolution" / "config.pbtxt").write_text(config)
    server = Server(small, ports=FREE_PORTS, **options)
    try:
        server.start()
        assert until(lambda: (Path(f"/proc/{server.pid}/exe").readlink().name) == "tritonserver")
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    finally:
        server.stop()
    assert ("--disable-auto-complete-config" not in command) == asks


def test_the_log_can_be_asked_for(small):
    with Server(small, ports=FREE_PORTS) as server:
        assert "Started GRPCInferenceService" in server.log_tail(200)


@pytest.mark.parametrize("port", ["-1", "65536", "99999", "1e3", "x"])
def test_a_port_that_does_not_exist_is_wrong_usage(small, capsys, port):
    with pytest.raises(SystemExit) as end:
        cli.main(["--repository", str(small), "--grpc-port", port])
    assert end.value.code == 2
    assert "a port is a number of 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release", "24.10"], "--release is of NVIDIA's image: name it together with --ngc"),
        (["--ngc", "--release", "abc"], "abc is not a known release of tritonserver"),
        (["--ngc", "--verbose"], "--verbose and --ngc do not go together"),
        (["--ngc", "--", "true"], "a command and --ngc do not go together"),
    ],
)
def test_options_without_an_effect_are_wrong_usage(small, capsys, arguments, message):
    assert cli.main(["--repository", str(small), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_no_address_is_not_every_address(small, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--repository", str(small), "--address", ""])
    assert end.value.code == 2
    assert "it is empty: name an address" in capsys.readouterr().err
    with pytest.raises(UsageError, match="`address` is empty"):
        FREE_PORTS.resolve(" ")


def test_ports_that_cannot_be_used_together():
    with pytest.raises(PortInUse, match="a port of its own"):
        Ports(18551, 18551, 0).resolve("127.0.0.1")
    with pytest.raises(PortInUse, match="no such port"):
        Ports(99999, 0, 0).resolve("127.0.0.1")


@pytest.mark.parametrize("address", ["nonsense.invalid", "192.0.2.1"])
def test_an_address_that_is_not_of_this_machine(small, capsys, address):
    assert cli.main(["--repository", str(small), *FREE, "--address", address]) == 1
    err = capsys.readouterr().err
    assert "--address must be an address of this machine" in err
    assert "another server" not in err

"""Who may do what with a running server: strangers, the same user, and the launcher itself."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import launches
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.errors import AccessDenied
from seresnext101_triton.client.launches import KEY_NAME
from seresnext101_triton.server.control import Control, running
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.stubs import stubs_of
from tests.conftest import FREE_PORTS, onnx_convolution, write_model


@pytest.fixture(scope="module")
def closed(repository) -> Iterator[Server]:
    """A server as `python -m server` starts it: nothing is open to strangers."""
    with Server(repository, ports=FREE_PORTS, only=["tiny_onnx"]) as running_server:
        yield running_server


FORBIDDEN = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("tiny_onnx", headers=headers),
    "unload": lambda client, headers: client.unload_model("nothing", headers=headers),
    "memory": lambda client, headers: client.register_system_shared_memory(
        "mine", "/no-such-region", 64, headers=headers
    ),
    "level": lambda client, headers: client.update_log_settings(
        {"log_verbose_level": 0}, headers=headers
    ),
    "file": lambda client, headers: client.update_log_settings({"log_file": ""}, headers=headers),
    "trace": lambda client, headers: client.update_trace_settings(
        settings={"trace_level": ["OFF"]}, headers=headers
    ),
}


@pytest.mark.parametrize("call", FORBIDDEN)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_stranger_is_refused_and_the_key_opens(closed, protocol, call):
    """Some calls fail for other reasons with the key, but none because it is restricted."""
    module = {"grpc": grpcclient, "http": httpclient}[protocol]
    port = getattr(closed.ports, protocol)
    header = {"grpc": f"triton-grpc-protocol-{KEY_NAME}", "http": KEY_NAME}[protocol]
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        for headers in ({}, {header: "0" * 32}):
            with pytest.raises(InferenceServerException, match="is restricted"):
                FORBIDDEN[call](client, headers)
        try:
            FORBIDDEN[call](client, {header: closed.launch.key})
        except InferenceServerException as error:
            assert "restricted" not in error.message()


def test_the_number_of_instances_is_that_of_the_processes(closed):
    control = Control(closed.launch)
    stubs = [(stub.model, stub.version) for stub in stubs_of(closed.pid)]
    assert stubs and control.instances("tiny_onnx", "1") == stubs.count(("tiny_onnx", "1"))
    for model, version in (("tiny_onnx", "2"), ("other", "1")):
        with pytest.raises(
            ServerError, match=f"{closed.ports.http} does not tell a config: .*{model}"
        ):
            control.instances(model, version)
    assert control.is_live() and control.is_ready()
    (state,) = control.index()
    assert (state.name, state.version, state.state, state.reason) == ("tiny_onnx", "1", "READY", "")
    assert not control.wait_until_unloaded(["tiny_onnx"], 0.2)
    assert control.wait_until_unloaded(["other"], 0.2)


def test_stubs_import_the_backends_from_their_working_directory(closed):
    for pid in (closed.pid, *(stub.pid for stub in stubs_of(closed.pid))):
        assert Path("/proc", str(pid), "cwd", "seresnext101_triton", "server").is_dir()


def test_control_needs_the_key(closed):
    control = Control(replace(closed.launch, key="0" * 32))
    with pytest.raises(ServerError, match="does not list its models: .*restricted"):
        control.index()
    with pytest.raises(LoadError, match="'tiny_onnx' cannot be unloaded: .*restricted"):
        control.unload("tiny_onnx")


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_same_user_finds_the_key_and_a_stranger_does_without_the_index(
    closed, scheme, monkeypatch, tmp_path
):
    url = closed.url if not scheme else f"http://127.0.0.1:{closed.ports.http}"
    with Connection(url) as connection:
        assert "tiny_onnx" in connection.ready_models()
    monkeypatch.setenv(launches.FOLDER_VARIABLE, str(tmp_path))
    with Connection(url) as connection:
        with pytest.raises(AccessDenied, match="restricted"):
            connection.models()
        connection.wait_until_ready("tiny_onnx")
        assert connection.describe("tiny_onnx").name == "tiny_onnx"
    monkeypatch.setenv(launches.LAUNCH_VARIABLE, str(closed.launch.file))
    with Connection(url) as connection:
        assert "tiny_onnx" in connection.ready_models()


def test_the_key_is_for_the_eyes_of_one_user(closed):
    file = closed.launch.file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o022 == 0
    arguments = Path(f"/proc/{closed.pid}/cmdline").read_bytes()
    assert f"{KEY_NAME}=".encode() in arguments
    assert closed.launch.key.encode() not in arguments
    assert closed.launch.key not in closed.log_tail(200)


def test_a_file_that_others_can_read_or_that_is_damaged_is_not_used(closed, tmp_path, monkeypatch):
    copy = tmp_path / "copy.json"
    copy.write_text(closed.launch.to_json())
    copy.chmod(0o644)
    assert launches.read_launch(copy) is None
    copy.chmod(0o600)
    assert launches.read_launch(copy) == replace(closed.launch, file=copy)
    copy.write_text("{}")
    assert launches.read_launch(copy) is None
    copy.write_text("[")
    assert launches.read_launch(copy) is None


def test_a_key_goes_to_its_own_server_only(closed):
    from seresnext101_triton.client.address import parse

    here = parse(closed.url)
    assert launches.key_headers(here) == {f"triton-grpc-protocol-{KEY_NAME}": closed.launch.key}
    for other in (f"192.0.2.7:{closed.ports.grpc}", "127.0.0.1:1", f"127.0.0.1:{here.port + 1}"):
        assert closed.launch.key not in launches.key_headers(parse(other)).values()


def test_another_process_loads_and_unloads_models(tmp_path):
    """`running` finds the server by its repository, and `Control` has the key."""
    repository = tmp_path / "models"
    config = 'platform: "onnxruntime_onnx"'
    write_model(repository, "convolution", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    assert running(repository) == []
    with Server(repository, ports=FREE_PORTS):
        (launch,) = running(repository)
        assert (launch.state, launch.pid) == ("ready", os.getpid())
        control = Control(launch)
        control.unload("convolution")
        assert control.wait_until_unloaded(["convolution"], 60)
        assert [state.state for state in control.index()] == ["UNAVAILABLE"]
        control.load("convolution")
        control.reload("convolution")
        states = {(state.name, state.state) for state in control.index()}
        assert states == {("convolution", "READY")} and control.is_ready()
        with pytest.raises(LoadError, match="'nothing' cannot be loaded"):
            control.load("nothing")
    assert running(repository) == []
    assert not control.is_live()
    with pytest.raises(ServerError, match="has ended"):
        control.load("convolution")


def test_a_protocol_can_be_opened(tmp_path):
    repository = tmp_path / "models"
    config = 'platform: "onnxruntime_onnx"'
    write_model(repository, "convolution", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    with (
        Server(repository, ports=FREE_PORTS, allow=["model-repository"]) as server,
        grpcclient.InferenceServerClient(server.url) as client,
    ):
        assert client.get_model_repository_index().models[0].name == "convolution"
        with pytest.raises(InferenceServerException, match="restricted"):
            client.update_log_settings({"log_verbose_level": 0})


def test_a_shape_that_overflows_fails_nobody_who_asks_again(tmp_path):
    """The batcher brings both requests together, and Triton fails both; the client asks again."""
    config = """
        platform: "onnxruntime_onnx"  max_batch_size: 4
        input { name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 4, 4] }
        output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 2, 2] }
        instance_group { kind: KIND_CPU count: 1 }
        dynamic_batching { max_queue_delay_microseconds: 1000000 }
    """
    from seresnext101_triton.client.address import parse
    from seresnext101_triton.client.errors import ServerUnreachable
    from seresnext101_triton.client.explain import refusal

    repository = tmp_path / "models"
    write_model(repository, "slow", config, {"model.onnx": onnx_convolution((3, 4, 4))})
    with (
        Server(repository, ports=FREE_PORTS) as server,
        grpcclient.InferenceServerClient(server.url) as client,
    ):

        def ask(images: int) -> str:
            request = service_pb2.ModelInferRequest(model_name="slow")
            tensor = request.inputs.add(name="INPUT__0", datatype="FP32")
            tensor.shape.extend([images, 3, 4, 4])
            request.raw_input_contents.append(np.ones((1, 3, 4, 4), np.float32).tobytes())
            try:
                client._client_stub.ModelInfer(request, timeout=60)
            except grpc.RpcError as error:
                return str(error.details())
            return "answered"

        with ThreadPoolExecutor() as pool:
            wrong = pool.submit(ask, 2**32)
            time.sleep(0.2)  # it waits in the batcher for a second
            said = pool.submit(ask, 1).result()
            assert wrong.result() != "answered"
        if said != "answered":  # they were in one batch
            assert isinstance(refusal(parse(server.url), "INTERNAL", said), ServerUnreachable)
        assert ask(1) == "answered"

"""What a backend does with what Triton's stub gives it, with a stand-in for the stub's module.

So it is seen what an instance on a GPU does. `test_backends.py` and `test_image_input.py` have the
rest with a real server.
"""

from __future__ import annotations

import importlib
import json
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ImageError
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import TensorSpec

_PACKAGE = "seresnext101_triton.server.backends"


@dataclass
class Tensor:
    name: str
    array: np.ndarray

    @staticmethod
    def from_dlpack(name: str, array: np.ndarray) -> Tensor:
        return Tensor(name, array)

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def as_numpy(self) -> np.ndarray:
        return self.array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


@dataclass
class TritonError:
    message: str
    code: int = 0

    INTERNAL, INVALID_ARG = 1, 3


@dataclass
class Response:
    tensors: Sequence[Tensor] = ()
    error: TritonError | None = None


@dataclass
class MetricFamily:
    name: str
    description: str
    kind: str
    labels: dict[str, str] = field(default_factory=dict)
    count: int = 0

    COUNTER = "counter"

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802
        self.labels = labels
        return self

    def increment(self, by: int) -> None:
        self.count += by


STUB = SimpleNamespace(
    Tensor=Tensor,
    TritonError=TritonError,
    InferenceResponse=Response,
    MetricFamily=MetricFamily,
    get_input_tensor_by_name=lambda request, name: request[name],
)


@pytest.fixture
def load(monkeypatch) -> Callable[[str], Any]:
    """A function that imports a module of the backends, where the stub has its own module."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("utils"))

    def imported(name: str) -> Any:
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        tensors = importlib.import_module(f"{_PACKAGE}.tensors")
        for each in (module, tensors):
            monkeypatch.setattr(each, "pb_utils", STUB, raising=False)
        return module

    return imported


class Doubling:
    """A runtime that doubles images of two values, and fails for a NaN."""

    input, output = TensorSpec("x", (2,)), TensorSpec("y", (2,))

    def __init__(self, *asked: object) -> None:
        self.asked, self.batches = asked, []  # type: ignore[var-annotated]

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        if np.isnan(batch).any():
            raise ValueError("not a number")
        return batch * 2


def tensor(name: str, dims: Sequence[int] = (2,)) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": list(dims)}


def arguments(kind: str = "CPU", **changes: Any) -> dict[str, str]:
    """What Triton tells an instance of version 3 of model `m`."""
    config = {
        "name": "m",
        "max_batch_size": 4,
        "input": [tensor("x")],
        "output": [tensor("y")],
        "parameters": {"intra_op_thread_count": {"string_value": "2"}},
        "default_model_filename": "",
    }
    return {
        "model_config": json.dumps(config | changes),
        "model_instance_kind": kind,
        "model_instance_device_id": "5",
        "model_repository": "/models/m",
        "model_version": "3",
        "model_name": "m",
    }


@pytest.fixture
def model(load, monkeypatch) -> Any:
    module = load("backend")
    monkeypatch.setattr(module.runtimes, "load", Doubling)
    return load("onnxruntime.model").TritonPythonModel()


@pytest.mark.parametrize(("kind", "device"), [("CPU", "cpu"), ("GPU", "cuda:5")])
def test_an_instance_loads_its_artifact_on_its_device(model, kind, device):
    model.initialize(arguments(kind))
    runtime, artifact, parameters, asked = model._model.asked
    assert (runtime, str(artifact), asked) == ("onnxruntime", "/models/m/3/model.onnx", device)
    assert parameters == {"intra_op_thread_count": "2"}
    assert (model._family.name, model._family.kind) == ("seresnext101_request_failure", "counter")
    assert model._failures.labels == {"model": "m", "version": "3"}


def test_a_config_that_does_not_fit_is_refused_with_the_name_of_its_model(model):
    message = "^model 'm': config.pbtxt names the input 'z', and the artifact has 'x'$"
    with pytest.raises(ArtifactError, match=message):
        model.initialize(arguments(input=[tensor("z")]))


@pytest.mark.parametrize("name", ["", "a.pt", "a.pt2"])
def test_a_package_of_aotinductor_has_its_own_runtime(load, model, name):
    torch = load("pytorch.model").TritonPythonModel()
    torch.initialize(arguments(default_model_filename=name))
    runtime, artifact, *_ = torch._model.asked
    assert runtime == ("pt2" if name == "a.pt2" else "torchscript")
    assert artifact.name == (name or "model.pt")


def request(*rows: Sequence[float]) -> dict[str, Tensor]:
    return {"x": Tensor("x", np.array(rows, np.float32).reshape(-1, 2))}


def test_requests_run_together_and_a_bad_one_ends_alone(model):
    model.initialize(arguments())
    good, other = request((1, 2)), request((3, 4), (5, 6))
    for answer, rows in zip(
        model.execute([good, other]), ([[2, 4]], [[6, 8], [10, 12]]), strict=True
    ):
        assert answer.error is None and [each.name for each in answer.tensors] == ["y"]
        np.testing.assert_array_equal(answer.tensors[0].array, rows)
    assert model._model.batches == [3] and model._failures.count == 0
    bad, empty, large = request((float("nan"), 1)), request(), request(*[(1, 1)] * 5)
    first, *errors = model.execute([good, bad, empty, large, {}])
    assert first.tensors[0].array.tolist() == [[2, 4]]
    assert [each.error.message for each in errors] == [
        "ValueError: not a number",
        "BatchError: the request holds no image: its input has the shape [0, 2]",
        "BatchError: the request holds 5 images, and this model takes at most 4",
        "KeyError: 'x'",
    ]
    assert model._failures.count == 4


def test_a_model_without_batches_answers_in_its_own_shape(model):
    model.initialize(
        arguments(max_batch_size=0, input=[tensor("x", (-1, 2))], output=[tensor("y", (-1, 2))])
    )
    model._model.run = lambda batch: batch.sum()[None]
    (answer,) = model.execute([request(*[(1, 1)] * 5)])
    assert answer.tensors[0].array.tolist() == [10]


@dataclass
class Config:
    """Triton's config of a model that is to be completed."""

    document: dict[str, Any]
    added: list[object] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return self.document

    def add_input(self, tensor: dict[str, Any]) -> None:
        self.added.append(("input", tensor))

    def add_output(self, tensor: dict[str, Any]) -> None:
        self.added.append(("output", tensor))

    def set_max_batch_size(self, size: int) -> None:
        self.added.append(size)

    def set_dynamic_batching(self) -> None:
        self.added.append("batching")


def incomplete(**changes: Any) -> Config:
    lacking = {"input": [], "output": [], "max_batch_size": 0, "default_model_filename": ""}
    return Config({"name": "m", **lacking, **changes})


@pytest.fixture
def versions(tmp_path, monkeypatch) -> None:
    for name in ("2", "10", "x"):
        (tmp_path / "m" / name).mkdir(parents=True)
    monkeypatch.setenv("SERVED_MODEL_REPOSITORY", str(tmp_path))


INPUT, OUTPUT = ("input", tensor("x")), ("output", tensor("y"))


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({}, [INPUT, OUTPUT, 4, "batching"]),
        ({"max_batch_size": 8}, [INPUT, OUTPUT]),
        ({"input": [tensor("x")]}, [OUTPUT, 4, "batching"]),
        ({"output": [tensor("y")]}, [INPUT, 4, "batching"]),
        ({"input": [tensor("x")], "output": [tensor("y")]}, []),
    ],
)
def test_a_config_is_completed_from_the_artifact_of_the_newest_version(
    model, versions, tmp_path, changes, added
):
    config = incomplete(**changes)
    assert model.auto_complete_config(config) is config and config.added == added


def test_the_artifact_from_which_a_config_is_completed(
    load, model, versions, tmp_path, monkeypatch
):
    asked: list[object] = []
    module = load("backend")

    def loaded(*about: object) -> object:
        asked.append(about)
        return SimpleNamespace(input=TensorSpec("x", (2,), 3), output=TensorSpec("y", (2,)))

    monkeypatch.setattr(module.runtimes, "load", loaded)
    for name, artifact in (("", "model.onnx"), ("own.onnx", "own.onnx")):
        config = incomplete(default_model_filename=name)
        model.auto_complete_config(config)
        assert asked.pop() == ("onnxruntime", tmp_path / "m" / "10" / artifact, {})
        # It is fixed to a batch, so that it is served without batches.
        assert config.added == [("input", tensor("x", (3, 2))), ("output", tensor("y", (-1, 2)))]


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, "no input and no output"),
        ({"input": [tensor("x")]}, "no output"),
        ({"output": [tensor("y")]}, "no input"),
    ],
)
def test_a_backend_that_completes_nothing_says_what_is_missing(load, model, changes, lacking):
    openvino = load("openvino.model").TritonPythonModel
    message = f"^model 'm': config.pbtxt names {lacking}, and Triton's backend for model.xml does"
    with pytest.raises(ArtifactError, match=message):
        openvino.auto_complete_config(incomplete(**changes))


# The model that decodes images

CONTRACT = Preprocessing(resize=72, crop=64)
PHOTOGRAPH = sample_photographs()[0].read_bytes()


@pytest.fixture
def decoder(load) -> Callable[[str], Any]:
    """A function that makes the model for images of a type."""

    def made(kind: str, **limits: str) -> Any:
        parameters = {
            **CONTRACT.to_parameters(),
            "image.max_bytes": "10000000",
            "image.max_pixels": "100000000",
        }
        config = {
            "parameters": {
                key: {"string_value": value} for key, value in (parameters | limits).items()
            },
            "input": [{"name": "IMAGE", "data_type": kind}],
            "output": [{"name": "PIXELS"}],
        }
        model = load("image").TritonPythonModel()
        model.initialize({"model_config": json.dumps(config)})
        return model

    return made


def of_bytes(*images: bytes) -> dict[str, Tensor]:
    return {"IMAGE": Tensor("IMAGE", np.array(images, object)[:, None])}


def test_images_become_the_input_of_the_network(decoder):
    model = decoder("TYPE_STRING")
    url = b"data:image/jpeg;base64," + b64encode(PHOTOGRAPH)
    both, one = model.execute([of_bytes(PHOTOGRAPH, url), of_bytes(PHOTOGRAPH)])
    (prepared,), (single,) = both.tensors, one.tensors
    assert (prepared.name, prepared.array.shape) == ("PIXELS", (2, 3, 64, 64))
    assert prepared.array.dtype == np.float32
    for row in (*prepared.array, *single.array):
        np.testing.assert_array_equal(row, single.array[0])
    pixels = decoder("TYPE_UINT8")
    raw = np.frombuffer(PHOTOGRAPH, np.uint8)[None]
    (answer,) = pixels.execute([{"IMAGE": Tensor("IMAGE", raw)}])
    np.testing.assert_array_equal(answer.tensors[0].array, single.array)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([b"GIF"], "ImageError: 3 bytes "),
        ([PHOTOGRAPH, b"GIF"], "ImageError: image 2 of 2: 3 bytes "),
        ([b"data:x"], "ImageError: 6 bytes is a data URL that cannot be read: it is not data:...;"),
        ([b"data:x;base64"], "ImageError: 13 bytes is a data URL that cannot be read: it is not"),
        ([b"data:x,AAAA"], "ImageError: 11 bytes is a data URL that cannot be read: it is not"),
        ([b"data:;base64,A!"], "ImageError: 15 bytes is a data URL that cannot be read: "),
    ],
)
def test_a_bad_image_is_told_in_the_clients_words(decoder, images, said):
    (answer,) = decoder("TYPE_STRING").execute([of_bytes(*images)])
    assert answer.tensors == () and answer.error.message.startswith(said)
    assert answer.error.code == TritonError.INVALID_ARG


def test_a_fault_that_is_no_images_is_told_as_ours(decoder):
    (answer,) = decoder("TYPE_STRING").execute([{}])
    assert answer.error.message == "KeyError: 'IMAGE'"
    assert answer.error.code == TritonError.INTERNAL


@pytest.mark.parametrize("limit", ["image.max_bytes", "image.max_pixels"])
def test_the_limits_of_the_config_are_kept(decoder, limit):
    """The sample image is over them, so that the fault shows when the model is loaded."""
    with pytest.raises(ImageError):
        decoder("TYPE_STRING", **{limit: "100"})

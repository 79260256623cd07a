"""Runs engines of TensorRT, or of TensorRT for RTX, with PyTorch's CUDA tensors as buffers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes.base import Runtime, TensorSpec


class EngineRuntime(Runtime):
    """Runs an engine's only input and only output on one GPU, on a CUDA stream of its own.

    Attributes:
        trt: The module of the TensorRT.
        product: What messages call it.
        kind: What messages call the artifact.
    """

    trt: Any
    product: str
    kind: str

    def __init__(self, artifact: Path, parameters: Mapping[str, str], device: str) -> None:  # noqa: ARG002  (Triton's backend has no parameter for plans)
        if not device.startswith("cuda"):
            raise ArtifactError(
                f"{artifact} is {self.kind} and runs on a GPU only, not on {device}"
            )
        self._device = torch.device(device)
        trt = self.trt
        self._log = _log_class(trt)()
        try:
            plan = artifact.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{artifact} cannot be read: {error.strerror}") from None
        with torch.cuda.device(self._device):
            self._runtime = trt.Runtime(self._log)  # it must outlive its engine
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise ArtifactError(
                    f"{artifact} cannot be loaded by {self.product} {trt.__version__} on this GPU: "
                    f"{self._log.last}"
                )
            self._engine = engine
            self._context = self._given(engine.create_execution_context(), "make room for a run")
            self._stream = torch.cuda.Stream(self._device)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) != 2:
            raise ArtifactError(
                f"{artifact} has the tensors {', '.join(names)}, and not one input and one output"
            )
        (output,) = set(names) - set(inputs)
        self.input, self.output = (
            TensorSpec(name, tuple(engine.get_tensor_shape(name))[1:], dtype=self._dtype(name))
            for name in (*inputs, output)
        )
        self._largest = engine.get_tensor_profile_shape(self.input.name, 0)[2][0]

    def run(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) > self._largest:
            raise ArtifactError(
                f"a batch of {len(batch)} is over the plan's maximum, {self._largest}"
            )
        source = torch.from_numpy(np.require(batch, self.input.dtype, requirements=["C", "W"]))
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            images = source.to(self._device, self._type(self.input.name))
            shape = tuple(images.shape)
            self._must(
                self._context.set_input_shape(self.input.name, shape),
                f"take a batch of {list(shape)}",
            )
            shape = tuple(self._context.get_tensor_shape(self.output.name))
            scores = torch.empty(shape, dtype=self._type(self.output.name), device=self._device)
            for name, tensor in ((self.input.name, images), (self.output.name, scores)):
                done = self._context.set_tensor_address(name, tensor.data_ptr())
                self._must(done, f"use a buffer for {name}")
            self._must(self._context.execute_async_v3(self._stream.cuda_stream), "run")
            answer = scores.float().cpu()
        self._stream.synchronize()  # the GPU uses images and scores until here
        return answer.numpy()

    def _dtype(self, name: str) -> str:
        """The type in which the tensor is handed over: FP16 is converted to and from float32."""
        return "uint8" if self._type(name) == torch.uint8 else "float32"

    def _type(self, name: str) -> torch.dtype:
        kinds = self.trt.DataType
        types = {
            kinds.FLOAT: torch.float32,
            kinds.HALF: torch.float16,
            kinds.UINT8: torch.uint8,
        }
        return types[self._engine.get_tensor_dtype(name)]

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise ArtifactError(f"the plan cannot {what}: {self._log.last}")

    def _given(self, value: Any, what: str) -> Any:
        self._must(value is not None, what)
        return value


def _log_class(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps TensorRT's last error for messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it does not say why"

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(msg.split())

    return Log

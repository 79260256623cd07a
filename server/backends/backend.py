"""What all backends share. It runs inside Triton's Python stub, where `triton_python_backend_utils` can be imported."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from server import runtimes
from server.backends import REPOSITORY_VARIABLE
from server.backends.batching import run_together
from server.backends.selection import artifact_filename

# What Triton's C++ ONNX Runtime backend gives a model whose config leaves the maximum batch open.
DEFAULT_MAX_BATCH = 4


class Backend:
    """A TritonPythonModel over one runtime. A backend's model.py subclasses it and names the two class attributes."""

    runtime: str
    default_filename: str

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Complete a config that names no tensors, from what the artifact says of itself."""
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        folder = Path(os.environ[REPOSITORY_VARIABLE], known["name"])
        version = max((path.name for path in folder.iterdir() if path.name.isdigit()), key=int)
        artifact = folder / version / (known["default_model_filename"] or cls.default_filename)
        model = runtimes.load(cls.runtime, artifact, {})
        for tensor, present, add in (
            (model.input, known["input"], config.add_input),
            (model.output, known["output"], config.add_output),
        ):
            if not present:
                if not tensor.dims:
                    raise pb_utils.TritonModelException(f"{artifact} does not say the shape of {tensor.name}: write it into config.pbtxt")
                add({"name": tensor.name, "data_type": "TYPE_FP32", "dims": list(tensor.dims)})
        if not known["max_batch_size"]:
            config.set_max_batch_size(DEFAULT_MAX_BATCH)
            config.set_dynamic_batching()
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact onto the instance's device."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        artifact = Path(args["model_repository"], args["model_version"], artifact_filename(config, self.default_filename, device))
        self._model = runtimes.load(self.runtime, artifact, parameters, device)
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request that Triton's batcher brought together."""
        batches = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        return [self._response(answer) for answer in run_together(self._model.run, batches)]

    def _response(self, answer: np.ndarray | Exception) -> Any:
        if isinstance(answer, Exception):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(answer).__name__}: {answer}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, answer)])

"""The base class of all backends.

It runs inside the stub, the process in which Triton runs a Python backend. Only there,
`triton_python_backend_utils` can be imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from seresnext101_triton.client.metrics import FAILURES_OF_PYTHON as FAILURES
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.backends import REPOSITORY_VARIABLE
from seresnext101_triton.server.backends.batching import check_shape, run_together
from seresnext101_triton.server.backends.selection import artifact_filename
from seresnext101_triton.server.backends.tensors import to_array, to_tensor
from seresnext101_triton.server.backends.validation import Rules, check
from seresnext101_triton.server.errors import ArtifactError

# Triton's C++ backend for ONNX Runtime uses this maximum batch if the config names none.
DEFAULT_MAX_BATCH = 4
_FAILURES_HELP = "Number of requests that failed in a model, which Triton counts as successful"


class Backend:
    """A TritonPythonModel that runs artifacts with one runtime.

    The model.py of a backend derives a class from it and sets the three attributes.

    Attributes:
        runtime: A key of `seresnext101_triton.server.runtimes.RUNTIMES`.
        default_filename: Name of the artifact if the config names none.
        rules: The rules by which a config is checked.
    """

    runtime: str
    default_filename: str
    rules: Rules

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Add the tensors that a config does not name. They are read from the artifact.

        Raises:
            ArtifactError: NVIDIA's C++ backend would not complete the config either.
        """
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        if not cls.rules.completes:
            lacking = " and no ".join(kind for kind in ("input", "output") if not known[kind])
            raise ArtifactError(
                f"model {known['name']!r}: config.pbtxt names no {lacking}, and Triton's "
                f"backend for {cls.default_filename} does not complete it: write name, data_type "
                "and dims of both into it, as `python -m export` does"
            )
        folder = Path(os.environ[REPOSITORY_VARIABLE], known["name"])
        version = max((path.name for path in folder.iterdir() if path.name.isdigit()), key=int)
        artifact = folder / version / (known["default_model_filename"] or cls.default_filename)
        model = runtimes.load(cls.runtime, artifact, {})
        batched = model.input.batch == model.output.batch == -1
        for tensor, present, add in (
            (model.input, known["input"], config.add_input),
            (model.output, known["output"], config.add_output),
        ):
            if not present:
                dims = tensor.dims if batched else (tensor.batch, *tensor.dims)
                add({"name": tensor.name, "data_type": tensor.triton_type, "dims": list(dims)})
        if batched and not known["max_batch_size"]:
            config.set_max_batch_size(DEFAULT_MAX_BATCH)
            config.set_dynamic_batching()
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact onto the instance's device.

        Raises:
            ArtifactError: The artifact cannot be loaded with this config.
        """
        config = json.loads(args["model_config"])
        try:
            self._load(config, args)
        except ArtifactError as error:
            raise ArtifactError(f"model {config['name']!r}: {error}") from None

    def _load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        is_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if is_gpu else "cpu"
        filename = artifact_filename(config, self.default_filename, device)
        artifact = Path(args["model_repository"], args["model_version"], filename)
        self._model = runtimes.load(self.runtime, artifact, parameters, device)
        check(config, self._model, self.rules)
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._largest = config["max_batch_size"]
        self._family = pb_utils.MetricFamily(  # its metrics end with it
            name=FAILURES, description=_FAILURES_HELP, kind=pb_utils.MetricFamily.COUNTER
        )
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._failures = self._family.Metric(labels=labels)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request that Triton's batcher brought together."""
        batches = [self._batch(request) for request in requests]
        answers = run_together(self._model.run, batches, batched=self._largest > 0)
        return [self._response(answer) for answer in answers]

    def _batch(self, request: Any) -> np.ndarray | Exception:
        """The images of a request, or the error because of which they cannot be run."""
        try:
            tensor = pb_utils.get_input_tensor_by_name(request, self._input)
            check_shape(tensor.shape(), self._largest)
            return to_array(tensor)
        except Exception as error:  # noqa: BLE001  (any error is the request's answer)
            return error

    def _response(self, answer: np.ndarray | Exception) -> Any:
        if isinstance(answer, Exception):
            self._failures.increment(1)
            error = pb_utils.TritonError(f"{type(answer).__name__}: {answer}")
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([to_tensor(self._output, answer)])

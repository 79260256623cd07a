"""Serves `backend: "openvino"`."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """OpenVINO's IR in OpenVINO."""

    runtime = "openvino"
    default_filename = "model.xml"
    rules = Rules(any_batch=True)

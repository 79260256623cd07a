"""Serves `backend: "openvino"`."""

from server.backends.backend import Backend


class TritonPythonModel(Backend):
    """OpenVINO's IR in OpenVINO."""

    runtime = "openvino"
    default_filename = "model.xml"

"""Serves `backend: "exported_program"`."""

from seresnext101_triton.server.backends.backend import Backend
from seresnext101_triton.server.backends.validation import Rules


class TritonPythonModel(Backend):
    """Exported programs in PyTorch."""

    runtime = "tests.export.toy.runtime:ExportedProgram"
    default_filename = "model.pt2"
    rules = Rules(names=False)

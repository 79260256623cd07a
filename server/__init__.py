"""Serves a model repository with a real tritonserver on this machine.

In `seresnext101_triton.server`, the package `runtimes` runs artifacts, the package `backends` makes
Triton use these runtimes, and the module `launcher` starts and ends a tritonserver.
"""

# The oldest release of NVIDIA's image with all known security fixes (product security bulletin
# 5875) when this line was written.
TRITON_RELEASE = "26.07"

# The folder inside NVIDIA's image in which ONNX Runtime's TensorRT provider keeps its engines.
# `python -m server --ngc` mounts a volume there.
ENGINE_CACHE = "/var/cache/onnxruntime-tensorrt"

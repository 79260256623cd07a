"""A real tritonserver on this machine: the runtimes that run artifacts, the backends that serve them, and the launcher."""

# The oldest release of NVIDIA's image with all security fixes known when this was written (product security bulletin 5875).
TRITON_RELEASE = "26.07"

# Where ONNX Runtime's TensorRT provider keeps the engines it builds, inside NVIDIA's image; `python -m server --ngc` keeps it in a volume.
ENGINE_CACHE = "/var/cache/onnxruntime-tensorrt"

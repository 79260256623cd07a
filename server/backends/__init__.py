"""Python-based Triton backends, for a tritonserver without the C++ ones.

Triton loads `backends/<name>/model.py` for every model whose config.pbtxt names that backend, so the same repository is served by
NVIDIA's image with its C++ backends and by the embedded server with these.
"""

# Triton does not tell a backend where a model lies while its config is being completed; the launcher does, in this variable.
REPOSITORY_VARIABLE = "SERVED_MODEL_REPOSITORY"

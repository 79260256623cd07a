"""Python-based Triton backends, for a tritonserver without the C++ ones.

Triton loads `backends/<name>/model.py` for every model whose config.pbtxt names that backend. So
the same repository is served by NVIDIA's image with its C++ backends, and by the embedded server
with these backends.
"""

# Triton does not tell a backend the folder of a model whose config it completes. The launcher does,
# in this variable.
REPOSITORY_VARIABLE = "SERVED_MODEL_REPOSITORY"

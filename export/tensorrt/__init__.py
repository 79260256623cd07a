"""TensorRT plans: built, inspected, and described so that no server is given one it cannot load.

`plan`, `builder`, `trtexec`, `inspection` and `gpu` need nothing but the standard library and
TensorRT itself, because NVIDIA's image has nothing else: there `python3 -m export.tensorrt` builds
a plan where it will be served.
"""

"""What one would serve the eager network with otherwise, each as small and as well configured as its own documentation advises.

    python -m perf compare client:seresnext101_onnx peer:fastapi peer:litserve peer:pytriton

puts them behind the same load: N people who each send one photograph after the other and want its top-5. `launch.py` starts them and asks
them; every other module but `network.py` is one server.
"""

"""Other servers for the same network, each as small and as fast as its own documentation advises.

    python -m perf compare client:seresnext101_onnx peer:fastapi peer:litserve peer:pytriton

compares them under the same load: a number of users, each of whom sends one photograph after the
other and wants its top-5. `launch.py` starts a server and sends the requests; every other module
but `network.py` is one server. It is a program with the arguments HTTP_PORT GRPC_PORT METRICS_PORT
NETWORK. The network is the eager one, or with `peer:NAME/MODEL` the artifact of a published model.
"""

MAX_BATCH = 8  # of the servers that batch

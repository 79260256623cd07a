"""The network as ONNX: `writer` exports it, and `gate` refuses graphs that are not fit to serve."""

"""Does what Triton's example `grpc_image_client.py` does: raw gRPC messages, without tritonclient.

The generated messages are those of tritonclient, as in the example, or others with `--messages`
and `--service`, for example those of the package `open-inference-grpc`.
"""

from __future__ import annotations

import argparse
import struct
from importlib import import_module
from pathlib import Path

import grpc
import numpy as np
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model")
    parser.add_argument("-c", dest="classes", type=int, default=1)
    parser.add_argument("-u", dest="url", default="localhost:8001")
    parser.add_argument("--messages", default="tritonclient.grpc.service_pb2")
    parser.add_argument("--service", default="tritonclient.grpc.service_pb2_grpc")
    parser.add_argument("--files", action="store_true", help="send the files as they are")
    parser.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    messages = import_module(options.messages)
    service = import_module(options.service)
    stub = service.GRPCInferenceServiceStub(grpc.insecure_channel(options.url))
    metadata = stub.ModelMetadata(messages.ModelMetadataRequest(name=options.model))
    (source,), (output,) = metadata.inputs, metadata.outputs
    request = messages.ModelInferRequest(model_name=options.model)
    count = len(options.images)
    if options.files:
        files = [path.read_bytes() for path in options.images]
        raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
        shape = [count, 1]
    else:
        _, height, width, _ = source.shape
        images = [Image.open(path).convert("RGB") for path in options.images]
        raw = np.stack(
            [np.array(image.resize((width, height), Image.Resampling.BILINEAR)) for image in images]
        ).tobytes()
        shape = [count, height, width, 3]
    tensor = messages.ModelInferRequest().InferInputTensor(
        name=source.name, datatype=source.datatype, shape=shape
    )
    request.inputs.extend([tensor])
    request.raw_input_contents.extend([raw])
    wanted = messages.ModelInferRequest().InferRequestedOutputTensor(name=output.name)
    wanted.parameters["classification"].int64_param = options.classes
    request.outputs.extend([wanted])
    response = stub.ModelInfer(request)
    entries = _strings(response.raw_output_contents[0])
    rows = np.reshape(np.array(entries, np.object_), response.outputs[0].shape)
    assert len(rows) == count, f"{len(rows)} results for {count} images"
    for path, row in zip(options.images, rows, strict=True):
        for entry in row:
            value, index, label = entry.decode().split(":", 2)
            print(f"{path.name}: {value} ({index}) = {label}")


def _strings(content: bytes) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length in front."""
    found, place = [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<I", content, place)
        found.append(content[place + 4 : place + 4 + length])
        place += 4 + length
    return found


if __name__ == "__main__":
    main()
